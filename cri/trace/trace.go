package trace

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/containerd/errdefs"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	metrics "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	api "go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/stats"

	"github.com/cricket-cri/cricket/runtime/flow"
)

const (
	// queueSpans bounds what waits for the collector, some megabytes at most; a pod's start
	// makes about forty spans.
	queueSpans = 4096
	// batchSpans and batchTime bound what is sent at once, and how late.
	batchSpans = 512
	batchTime  = 2 * time.Second
	// exportTime is how long one batch may take, repetitions included.
	exportTime = 10 * time.Second
	// scope names this program's own spans.
	scope = "github.com/cricket-cri/cricket"
)

// Options of a Provider.
type Options struct {
	// Endpoint is HOST:PORT of the collector's OTLP/gRPC receiver.
	Endpoint string
	// Insecure sends without TLS.
	Insecure bool
	// PerMillion is how many of a million traces are recorded that begin here, 0 to
	// 1000000. Whether those are that a client began, it says itself.
	PerMillion int
	// Version of the program, and the name of the node.
	Version, Node string
	Log           *slog.Logger
}

// Provider makes spans and sends them. Its methods are safe for concurrent use.
type Provider struct {
	sdk    *sdk.TracerProvider
	sender *sender
	tracer api.Tracer
}

// New makes a provider. The collector need not be there (yet): nothing is sent here.
func New(ctx context.Context, o Options) (*Provider, error) {
	options := []otlptracegrpc.Option{
		otlptracegrpc.WithEndpoint(o.Endpoint), otlptracegrpc.WithTimeout(exportTime),
		otlptracegrpc.WithRetry(otlptracegrpc.RetryConfig{
			Enabled: true, InitialInterval: time.Second, MaxInterval: exportTime / 2, MaxElapsedTime: exportTime,
		}),
	}
	if o.Insecure {
		options = append(options, otlptracegrpc.WithInsecure())
	}
	exporter, err := otlptracegrpc.New(ctx, options...)
	if err != nil {
		return nil, fmt.Errorf("make sender of traces to %q: %w: %w", o.Endpoint, errdefs.ErrInvalidArgument, err)
	}
	return newProvider(exporter, o), nil
}

func newProvider(to sdk.SpanExporter, o Options) *Provider {
	s := &sender{to: to, endpoint: o.Endpoint, log: o.Log}
	p := sdk.NewTracerProvider(
		sdk.WithSampler(sdk.ParentBased(sdk.TraceIDRatioBased(float64(o.PerMillion)/1e6))),
		sdk.WithResource(resource.NewSchemaless(
			attribute.String("service.name", "cricketd"), attribute.String("service.version", o.Version),
			attribute.String("host.name", o.Node),
		)),
		// Without this a caller could hold everything up by what it writes into names.
		sdk.WithRawSpanLimits(limits()),
		sdk.WithSpanProcessor(counted{sdk.NewBatchSpanProcessor(s,
			sdk.WithMaxQueueSize(queueSpans), sdk.WithMaxExportBatchSize(batchSpans),
			sdk.WithBatchTimeout(batchTime), sdk.WithExportTimeout(exportTime),
		), s}),
	)
	return &Provider{sdk: p, sender: s, tracer: p.Tracer(scope, api.WithInstrumentationVersion(o.Version))}
}

func limits() sdk.SpanLimits {
	l := sdk.NewSpanLimits()
	l.AttributeValueLengthLimit = 4096
	return l
}

// Handler opens the spans of gRPC calls, below those that clients name in their metadata,
// and lets the flows of these calls open theirs.
func (p *Provider) Handler() stats.Handler {
	return handler{p, otelgrpc.NewServerHandler(
		otelgrpc.WithTracerProvider(p.sdk), otelgrpc.WithPropagators(propagation.TraceContext{}),
		otelgrpc.WithMeterProvider(metrics.NewMeterProvider()),
	)}
}

type handler struct {
	provider *Provider
	stats.Handler
}

func (h handler) TagRPC(ctx context.Context, info *stats.RPCTagInfo) context.Context {
	return flow.WithTracer(h.Handler.TagRPC(ctx, info), h.provider)
}

// Begin opens a span of a flow or of one of its steps. It is a flow.Tracer.
func (p *Provider) Begin(ctx context.Context, flow, step string) (context.Context, func(error)) {
	name := step
	if step == "" {
		name = flow
	}
	ctx, span := p.tracer.Start(ctx, name, api.WithAttributes(attribute.String("cricket.flow", flow)))
	return ctx, func(err error) {
		if err != nil {
			span.RecordError(err)
			span.SetStatus(codes.Error, err.Error())
		}
		span.End()
	}
}

// Close sends what waits, until ctx ends: what has not been taken by then is lost.
func (p *Provider) Close(ctx context.Context) error {
	if err := p.sdk.Shutdown(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("send the last traces: %w", err)
	}
	return nil
}
