package trace

import (
	"context"
	"log/slog"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	sdk "go.opentelemetry.io/otel/sdk/trace"
)

// sender hands spans to the exporter. It counts them, and says once in the log when the
// collector does not take them any more: the library would say it for every batch, through
// a global handler.
type sender struct {
	to       sdk.SpanExporter
	endpoint string
	log      *slog.Logger
	failing  atomic.Bool
	// ended spans were handed to the queue; those that are neither sent nor failed nor wait
	// were dropped.
	ended, sent, failed atomic.Uint64
}

// ExportSpans never fails for its caller. It is called by one goroutine at a time.
func (s *sender) ExportSpans(ctx context.Context, spans []sdk.ReadOnlySpan) error {
	err := s.to.ExportSpans(ctx, spans)
	if err != nil {
		s.failed.Add(uint64(len(spans)))
		if !s.failing.Swap(true) {
			s.log.Warn("traces are not taken by the collector", "endpoint", s.endpoint, "error", err)
		}
		return nil
	}
	s.sent.Add(uint64(len(spans)))
	if s.failing.Swap(false) {
		s.log.Info("traces are taken by the collector again", "endpoint", s.endpoint)
	}
	return nil
}

func (s *sender) Shutdown(ctx context.Context) error { return s.to.Shutdown(ctx) }

// counted counts the recorded spans that come to a processor.
type counted struct {
	sdk.SpanProcessor
	sender *sender
}

func (c counted) OnEnd(s sdk.ReadOnlySpan) {
	if s.SpanContext().IsSampled() {
		c.sender.ended.Add(1)
	}
	c.SpanProcessor.OnEnd(s)
}

// Metrics count spans.
func (p *Provider) Metrics() prometheus.Collector { return figures{p.sender} }

type figures struct{ sender *sender }

func (figures) descs() (ended, sent, failed *prometheus.Desc) {
	return prometheus.NewDesc("cricket_trace_spans_total", "Spans that were recorded.", nil, nil),
		prometheus.NewDesc("cricket_trace_spans_sent_total", "Spans that the collector took.", nil, nil),
		prometheus.NewDesc("cricket_trace_spans_failed_total", "Spans that the collector did not take. What is missing beside it was dropped, or waits.", nil, nil)
}

// Describe implements prometheus.Collector.
func (f figures) Describe(ch chan<- *prometheus.Desc) {
	ended, sent, failed := f.descs()
	ch <- ended
	ch <- sent
	ch <- failed
}

// Collect implements prometheus.Collector.
func (f figures) Collect(ch chan<- prometheus.Metric) {
	ended, sent, failed := f.descs()
	count := func(d *prometheus.Desc, v uint64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v))
	}
	count(ended, f.sender.ended.Load())
	count(sent, f.sender.sent.Load())
	count(failed, f.sender.failed.Load())
}
