package trace

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	sdk "go.opentelemetry.io/otel/sdk/trace"

	"github.com/cricket-cri/cricket/cri/trace/otlptest"
	"github.com/cricket-cri/cricket/runtime/flow"
)

var errBroken = errors.New("broken")

// work runs a flow within a step of another, which fails and is undone.
func work(ctx context.Context) error {
	nothing := func(context.Context) error { return nil }
	return flow.Run(ctx, "outer",
		flow.Step{Name: "first", Do: nothing, Undo: nothing},
		flow.Step{Name: "second", Do: func(ctx context.Context) error {
			return flow.Run(ctx, "inner", flow.Step{Name: "deep", Do: func(context.Context) error { return errBroken }})
		}})
}

func options(endpoint string) Options {
	return Options{
		Endpoint: endpoint, Insecure: true, PerMillion: 1e6, Version: "v9", Node: "n1", Log: slog.New(slog.DiscardHandler),
	}
}

// figure is a metric of the provider.
func figure(t *testing.T, p *Provider, name string) float64 {
	t.Helper()
	r := prometheus.NewRegistry()
	r.MustRegister(p.Metrics())
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

// TestFlowsBecomeSpans: what a flow does arrives at a collector, with its errors.
func TestFlowsBecomeSpans(t *testing.T) {
	c, address, stop, err := otlptest.Serve("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	p, err := New(t.Context(), options(address))
	if err != nil {
		t.Fatal(err)
	}
	if err := work(flow.WithTracer(t.Context(), p)); !errors.Is(err, errBroken) {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := p.Close(ctx); err != nil { // before the batch is due
		t.Fatal(err)
	}
	paths := c.Paths("")
	for path, failed := range map[string]bool{
		"outer": true, "outer > first": false, "outer > second": true, "outer > second > inner": true,
		"outer > second > inner > deep": true, "outer > undo first": false,
	} {
		s, ok := paths[path]
		if !ok || s.Failed != failed || s.Service != "cricketd" || s.Start > s.End {
			t.Errorf("%q: %t, %+v", path, ok, s)
		}
		if failed && (len(s.Exceptions) != 1 || !strings.Contains(s.Exceptions[0], "broken")) {
			t.Errorf("%q records %q", path, s.Exceptions)
		}
	}
	if len(paths) != 6 || paths["outer > second > inner > deep"].Attributes["cricket.flow"] != "inner" {
		t.Errorf("%d spans: %v", len(paths), paths)
	}
	if n := figure(t, p, "cricket_trace_spans_sent_total"); n != 6 {
		t.Errorf("%v spans are counted as sent", n)
	}
}

// TestHeadersOfTheEnvironment: what a collector asks of its clients comes from OpenTelemetry's
// own variable, and does not stand in the configuration, which many may read.
func TestHeadersOfTheEnvironment(t *testing.T) {
	c, address, stop, err := otlptest.Serve("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20secret")
	p, err := New(t.Context(), options(address))
	if err != nil {
		t.Fatal(err)
	}
	_ = work(flow.WithTracer(t.Context(), p))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := p.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if got := c.Header("authorization"); !slices.Equal(got, []string{"Bearer secret"}) {
		t.Errorf("spans came with %q", got)
	}
}

// TestNobodyListens: without a collector, flows take no longer, what waits is bounded, and
// the end comes within its deadline.
func TestNobodyListens(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	for _, address := range []string{silent.Addr().String(), closed.Addr().String()} {
		p, err := New(t.Context(), options(address))
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		ctx := flow.WithTracer(t.Context(), p)
		for range 2 * queueSpans / 6 {
			_ = work(ctx)
		}
		// Each batch that was waited for would take the whole of exportTime.
		if took := time.Since(began); took > 3*exportTime {
			t.Errorf("%s: flows took %s", address, took)
		}
		if n := figure(t, p, "cricket_trace_spans_total"); n < queueSpans {
			t.Errorf("only %v spans, no more than wait", n)
		}
		closing, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		began = time.Now()
		if err := p.Close(closing); err != nil {
			t.Error(err)
		}
		cancel()
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("%s: the end took %s", address, took)
		}
	}
}

// refusing is an exporter that fails when it is told to.
type refusing struct{ err error }

func (r *refusing) ExportSpans(context.Context, []sdk.ReadOnlySpan) error { return r.err }
func (r *refusing) Shutdown(context.Context) error                        { return nil }

// TestFailuresAreSaidOnce: a collector that is away for a day is two lines in the log.
func TestFailuresAreSaidOnce(t *testing.T) {
	var log strings.Builder
	o := options("collector:4317")
	o.Log = slog.New(slog.NewTextHandler(&log, nil))
	to := &refusing{err: errors.New("connection refused")}
	p := newProvider(to, o)
	ctx := flow.WithTracer(t.Context(), p)
	flush := func() {
		t.Helper()
		_ = work(ctx)
		if err := p.sdk.ForceFlush(t.Context()); err != nil {
			t.Errorf("flush: %v", err)
		}
	}
	flush()
	flush()
	to.err = nil
	flush()
	flush()
	if got := strings.Count(log.String(), "\n"); got != 2 || !strings.Contains(log.String(), "connection refused") || !strings.Contains(log.String(), "again") {
		t.Errorf("log:\n%s", log.String())
	}
	if n := figure(t, p, "cricket_trace_spans_failed_total"); n != 12 {
		t.Errorf("%v spans failed", n)
	}
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestSampling: of traces that begin here none is recorded with a rate of 0.
func TestSampling(t *testing.T) {
	o := options("collector:4317")
	o.PerMillion = 0
	p := newProvider(&refusing{}, o)
	_ = work(flow.WithTracer(t.Context(), p))
	if n := figure(t, p, "cricket_trace_spans_total"); n != 0 {
		t.Errorf("%v spans are recorded", n)
	}
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
}
