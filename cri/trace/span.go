package trace

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	api "go.opentelemetry.io/otel/trace"
)

// ID is the trace that a call belongs to, for its log lines; empty if it is not recorded.
func ID(ctx context.Context) string {
	if s := api.SpanFromContext(ctx); s.IsRecording() {
		return s.SpanContext().TraceID().String()
	}
	return ""
}

// Describe adds to the span in ctx what it is about: pairs of names and texts.
func Describe(ctx context.Context, pairs ...string) {
	s := api.SpanFromContext(ctx)
	if !s.IsRecording() {
		return
	}
	for i := 0; i+1 < len(pairs); i += 2 {
		s.SetAttributes(attribute.String(pairs[i], pairs[i+1]))
	}
}

// Record notes the error of the call in ctx; nil changes nothing. Whether the call has failed
// by a fault of the server's, gRPC's handler decides by its code.
func Record(ctx context.Context, err error) {
	if s := api.SpanFromContext(ctx); err != nil && s.IsRecording() {
		s.RecordError(err)
	}
}
