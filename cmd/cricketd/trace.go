package main

import (
	"context"
	"log/slog"
	"os"
	"time"

	"google.golang.org/grpc"

	"github.com/cricket-cri/cricket/cri"
	"github.com/cricket-cri/cricket/cri/config"
	"github.com/cricket-cri/cricket/cri/trace"
	"github.com/cricket-cri/cricket/runtime/flow"
)

// traceFlush is how long the end of the daemon waits for the collector of traces.
const traceFlush = 3 * time.Second

// tracing is where traces go. Nil stands for nowhere.
type tracing struct{ to *trace.Provider }

// startTracing returns nil if no collector is configured.
func startTracing(ctx context.Context, c config.Tracing, log *slog.Logger) (*tracing, error) {
	if c.Endpoint == "" {
		return nil, nil
	}
	node, err := os.Hostname()
	if err != nil {
		node = "unknown"
	}
	p, err := trace.New(ctx, trace.Options{
		Endpoint: c.Endpoint, Insecure: c.Insecure, PerMillion: c.PerMillion, Version: version, Node: node, Log: log,
	})
	if err != nil {
		return nil, err
	}
	return &tracing{p}, nil
}

// flows opens the spans of flows that no call has begun.
func (t *tracing) flows() flow.Tracer {
	if t == nil {
		return nil
	}
	return t.to
}

// calls opens the spans of calls.
func (t *tracing) calls() []grpc.ServerOption {
	if t == nil {
		return nil
	}
	return []grpc.ServerOption{grpc.StatsHandler(t.to.Handler())}
}

// measure adds the metrics of traces.
func (t *tracing) measure(all *cri.Metrics) {
	if t != nil {
		all.Add(t.to.Metrics())
	}
}

func (t *tracing) close() error {
	if t == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), traceFlush)
	defer cancel()
	return t.to.Close(ctx)
}
