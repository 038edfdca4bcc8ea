// Package trace sends OpenTelemetry traces to a collector (OTLP over gRPC).
//
// A call's span is opened by gRPC's stats handler, below the one whose context the client
// sent (traceparent, as the kubelet does: KEP-2831, W3C Trace Context); the spans of flows
// and of their steps lie below that one (flow.Tracer). Nothing here waits for the collector:
// spans lie in a bounded queue, those that find it full are dropped and counted, and what is
// left at the end is sent within a deadline.
package trace
