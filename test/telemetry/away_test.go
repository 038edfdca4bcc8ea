package telemetry

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/test/integration"
)

// patience is how long a call may take while the collector is not what it should be: sending
// one batch of spans may take twice that.
const patience = 5 * time.Second

// flood makes more calls than spans may wait for the collector, and then starts a pod, whose steps
// end their spans before it is answered. None may wait for the collector.
func flood(ctx context.Context, t *testing.T, n *integration.Node) {
	t.Helper()
	quick := func(what string, call func() error) {
		t.Helper()
		began := time.Now()
		if err := call(); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > patience {
			t.Errorf("%s took %s", what, took)
		}
	}
	for range 6000 {
		quick("a call", func() error {
			_, err := n.Runtime.Version(ctx, &cri.VersionRequest{})
			return err
		})
	}
	quick("a pod", func() error {
		_, err := n.Runtime.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: n.PodConfig()})
		return err
	})
}

// call makes one call of a trace.
func call(t *testing.T, n *integration.Node, trace string) {
	t.Helper()
	if _, err := n.Runtime.Version(within(t.Context(), trace), &cri.VersionRequest{}); err != nil {
		t.Fatal(err)
	}
}

// arrived waits for the span of call to have come through the collector.
func arrived(t *testing.T, c *collector, trace string) {
	t.Helper()
	integration.Within(t, time.Minute, "a call's span comes through the collector", func() bool {
		spans := c.got.Spans(trace)
		return len(spans) == 1 && spans[0].Name == "runtime.v1.RuntimeService/Version" && spans[0].Parent == clientSpan
	})
}

// says waits for the daemon's log to have at least some number of lines that have all of
// some words, and returns how many.
func says(t *testing.T, n *integration.Node, times int, words ...string) (lines int) {
	t.Helper()
	integration.Within(t, time.Minute, fmt.Sprintf("the log says %d times: %q", times, words), func() bool {
		log, err := os.ReadFile(n.Paths.Log)
		if err != nil {
			t.Fatal(err)
		}
		lines = 0
		for line := range strings.Lines(string(log)) {
			if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
				lines++
			}
		}
		return lines >= times
	})
	return lines
}

// TestCollectorAway: a collector that hangs and one that is gone hold up neither calls nor pods, the
// log says so, and when it is back it has what happens from then on.
func TestCollectorAway(t *testing.T) {
	c := startCollector(t, nil)
	n := integration.Start(t, traced(t, c, 0)...)
	t.Cleanup(c.stop)
	call(t, n, "4bf92f3577b34da6a3ce929d0e0e0001")
	arrived(t, c, "4bf92f3577b34da6a3ce929d0e0e0001")

	c.signal(unix.SIGSTOP)
	flood(within(t.Context(), podTrace), t, n)
	says(t, n, 1, "level=WARN", "traces are not taken by the collector", c.address)
	c.signal(unix.SIGCONT)
	says(t, n, 1, "traces are taken by the collector again") // and no queue is full any more
	call(t, n, "4bf92f3577b34da6a3ce929d0e0e0002")
	arrived(t, c, "4bf92f3577b34da6a3ce929d0e0e0002")

	if err := c.Kill(); err != nil {
		t.Fatal(err)
	}
	flood(within(t.Context(), podTrace), t, n)
	says(t, n, 2, "traces are not taken by the collector")
	c.start()
	says(t, n, 2, "traces are taken by the collector again")
	call(t, n, "4bf92f3577b34da6a3ce929d0e0e0003")
	arrived(t, c, "4bf92f3577b34da6a3ce929d0e0e0003")
}

// TestTLS: traces go to a collector whose certificate is signed by an authority that the
// environment names, and to no other; that the log says once, and calls do not wait.
func TestTLS(t *testing.T) {
	const variable = "OTEL_EXPORTER_OTLP_CERTIFICATE"
	right, wrong := newAuthority(t), newAuthority(t)
	c := startCollector(t, right)
	t.Setenv(variable, right.certificate)
	n := integration.Start(t, traced(t, c, 0)...)
	t.Cleanup(c.stop)
	call(t, n, podTrace)
	arrived(t, c, podTrace)

	t.Setenv(variable, wrong.certificate)
	n.RestartDaemon()
	flood(within(t.Context(), callsTrace), t, n)
	says(t, n, 1, "level=WARN", "traces are not taken by the collector", c.address, "certificate signed by unknown authority")
	n.StopDaemon() // it tries once more to send what waits
	n.StartDaemon()
	if lines := says(t, n, 1, "traces are not taken by the collector"); lines != 1 {
		t.Errorf("the log says so %d times", lines)
	}
	if spans := c.got.Spans(callsTrace); len(spans) > 0 {
		t.Errorf("%d spans have come to a collector that is not trusted", len(spans))
	}
}
