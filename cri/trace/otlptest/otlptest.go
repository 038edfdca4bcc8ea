// Package otlptest is a collector of OpenTelemetry traces for tests: it serves the protocol's
// own gRPC service (opentelemetry.proto.collector.trace.v1) and keeps what it is sent.
package otlptest

import (
	"context"
	"encoding/hex"
	"fmt"
	"net"
	"sync"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	traces "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// Span is a span as it arrived.
type Span struct {
	Name, Trace, ID, Parent string // ids in hexadecimal digits
	// Service is the resource's service.name.
	Service string
	// Error is the status's message; Exceptions are the messages of recorded errors.
	Failed     bool
	Error      string
	Exceptions []string
	Attributes map[string]string
	// Start and End are nanoseconds since 1970.
	Start, End uint64
}

// Collector keeps spans. Its methods are safe for concurrent use.
type Collector struct {
	collector.UnimplementedTraceServiceServer

	mu      sync.Mutex
	spans   []Span
	headers metadata.MD // of the last export
}

// Serve serves a collector on address until stop is called. Address :0 takes a free port.
func Serve(address string) (c *Collector, listening string, stop func(), err error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, "", nil, fmt.Errorf("serve a collector: %w", err)
	}
	c = &Collector{}
	g := grpc.NewServer()
	collector.RegisterTraceServiceServer(g, c)
	ended := make(chan struct{})
	go func() { defer close(ended); _ = g.Serve(l) }()
	return c, l.Addr().String(), func() { g.Stop(); <-ended }, nil
}

// Export implements TraceServiceServer.
func (c *Collector) Export(ctx context.Context, r *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.headers, _ = metadata.FromIncomingContext(ctx)
	for _, of := range r.GetResourceSpans() {
		service := texts(of.GetResource().GetAttributes())["service.name"]
		for _, scope := range of.GetScopeSpans() {
			for _, s := range scope.GetSpans() {
				c.spans = append(c.spans, span(s, service))
			}
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

func span(s *traces.Span, service string) Span {
	out := Span{
		Name: s.GetName(), Service: service,
		Trace: hex.EncodeToString(s.GetTraceId()), ID: hex.EncodeToString(s.GetSpanId()), Parent: hex.EncodeToString(s.GetParentSpanId()),
		Failed: s.GetStatus().GetCode() == traces.Status_STATUS_CODE_ERROR, Error: s.GetStatus().GetMessage(),
		Attributes: texts(s.GetAttributes()), Start: s.GetStartTimeUnixNano(), End: s.GetEndTimeUnixNano(),
	}
	for _, e := range s.GetEvents() {
		if e.GetName() == "exception" {
			out.Exceptions = append(out.Exceptions, texts(e.GetAttributes())["exception.message"])
		}
	}
	return out
}

func texts(list []*common.KeyValue) map[string]string {
	all := map[string]string{}
	for _, kv := range list {
		all[kv.GetKey()] = kv.GetValue().GetStringValue()
	}
	return all
}

// Spans are those of a trace that have arrived, or of all where trace is empty.
func (c *Collector) Spans(trace string) []Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []Span
	for _, s := range c.spans {
		if trace == "" || s.Trace == trace {
			out = append(out, s)
		}
	}
	return out
}

// Header is what the last spans came with under a name.
func (c *Collector) Header(name string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.headers.Get(name)
}

// Paths are the names of the spans of a trace, each behind those of its ancestors. What
// has no parent here begins at the top.
func (c *Collector) Paths(trace string) map[string]Span {
	byID := map[string]Span{}
	for _, s := range c.Spans(trace) {
		byID[s.ID] = s
	}
	paths := map[string]Span{}
	for _, s := range byID {
		path, above := s.Name, s
		for range len(byID) {
			parent, ok := byID[above.Parent]
			if !ok {
				break
			}
			path, above = parent.Name+" > "+path, parent
		}
		paths[path] = s
	}
	return paths
}
