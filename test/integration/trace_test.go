package integration

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"google.golang.org/grpc/metadata"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/cri/trace/otlptest"
	"github.com/cricket-cri/cricket/test/images"
)

// Traces that clients begin, as the kubelet does (W3C Trace Context).
const (
	clientTrace = "4bf92f3577b34da6a3ce929d0e0e4736"
	clientSpan  = "00f067aa0ba902b7"
)

// startTraced starts a daemon that sends traces to an address.
func startTraced(t *testing.T, endpoint string, args ...string) *Node {
	t.Helper()
	config := filepath.Join(t.TempDir(), "config.toml")
	text := fmt.Sprintf("[tracing]\nendpoint = %q\ninsecure = true\nsampling_rate_per_million = 0\n", endpoint)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return Start(t, append([]string{"--config", config}, args...)...)
}

// TestTraces: a pod's start over gRPC is a trace below the client's own span, with every
// step in its place, and so is a failure; calls of clients that do not trace are none.
func TestTraces(t *testing.T) {
	collector, address, stop, err := otlptest.Serve("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	n := startTraced(t, address)
	n.Pull(images.Busybox)
	traced := metadata.AppendToOutgoingContext(t.Context(), "traceparent", "00-"+clientTrace+"-"+clientSpan+"-01")

	p := n.PodConfig()
	r, err := n.Runtime.RunPodSandbox(traced, &cri.RunPodSandboxRequest{Config: p})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.Images.PullImage(traced, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: images.Busybox}}); err != nil {
		t.Fatal(err)
	}
	c, err := n.Runtime.CreateContainer(traced, &cri.CreateContainerRequest{
		PodSandboxId: r.GetPodSandboxId(), Config: n.ContainerConfig("sleep", "3600"), SandboxConfig: p,
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.Runtime.StartContainer(traced, &cri.StartContainerRequest{ContainerId: c.GetContainerId()}); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Runtime.StartContainer(traced, &cri.StartContainerRequest{ContainerId: c.GetContainerId()}); err == nil {
		t.Fatal("a container starts twice")
	}
	n.StopDaemon() // sends what waits
	n.StartDaemon()

	const run, create, start, pull = "runtime.v1.RuntimeService/RunPodSandbox", "runtime.v1.RuntimeService/CreateContainer",
		"runtime.v1.RuntimeService/StartContainer", "runtime.v1.ImageService/PullImage"
	hull, container, network := "create sandbox", "create container", "connect network"
	if InVMs() {
		hull, container = "create virtual sandbox", "create virtual container"
	}
	paths := collector.Paths(clientTrace)
	for _, want := range []string{
		run,
		run + " > run pod sandbox > record intent",
		run + " > run pod sandbox > create sandbox",
		run + " > run pod sandbox > create sandbox > " + hull + " > " + network,
		run + " > run pod sandbox > record sandbox",
		create + " > create container",
		create + " > create container > make container > " + container,
		start,
		pull + " > pull image",
	} {
		s, ok := paths[want]
		if !ok || s.Start == 0 || s.End < s.Start {
			t.Errorf("%q: %t, %+v", want, ok, s)
		}
	}
	top := paths[run]
	if top.Parent != clientSpan || top.Attributes["cricket.sandbox.id"] != r.GetPodSandboxId() || top.Attributes["k8s.pod.name"] != p.GetMetadata().GetName() || top.Failed {
		t.Errorf("the call's span is %+v", top)
	}
	failed := 0
	for _, s := range collector.Spans("") {
		if s.Trace != clientTrace {
			t.Errorf("a trace that nobody asked for: %+v", s)
		}
		if s.Name == start && len(s.Exceptions) > 0 {
			failed++
		}
	}
	if failed != 1 {
		t.Errorf("%d starts that failed", failed)
	}
	if t.Failed() {
		for path := range paths {
			t.Log(path)
		}
	}
}

// TestTracesToNobody: a collector that takes connections and says nothing delays neither
// calls nor the end of the daemon.
func TestTracesToNobody(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	n := startTraced(t, silent.Addr().String())
	traced := metadata.AppendToOutgoingContext(t.Context(), "traceparent", "00-"+clientTrace+"-"+clientSpan+"-01")
	began := time.Now()
	for range 2000 {
		if _, err := n.Runtime.Version(traced, &cri.VersionRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("2000 calls took %s", took)
	}
	began = time.Now()
	n.StopDaemon()
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("the daemon's end took %s", took)
	}
	n.StartDaemon()
}

// TestScrape reads the daemon's metrics as Prometheus does, lints them, and looks for what
// operators are promised.
func TestScrape(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	n := Start(t, "--metrics-address", address)
	n.Pull(images.Busybox)
	if _, err := n.Images.PullImage(t.Context(), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: strings.Replace(images.Busybox, "busybox", "no-such-image", 1)}}); err == nil {
		t.Fatal("an image that is not there is pulled")
	}
	p := n.PodConfig()
	n.Run(n.RunPod(p), p, "sleep", "3600")
	n.KillMonitor()
	Within(t, 20*time.Second, "the monitor is replaced", func() bool {
		return value(scrape(t, address), "cricket_monitor_restarts_total") == 1
	})
	all := scrape(t, address)
	for name, least := range map[string]float64{
		`cricket_call_duration_seconds{code="OK",method="RunPodSandbox"}`:                       1,
		`cricket_call_duration_seconds{code="OK",method="PullImage"}`:                           1,
		`cricket_image_pull_duration_seconds{code="OK"}`:                                        1,
		`cricket_image_pull_duration_seconds{code="Unavailable"}`:                               1, // only a mirror could be asked
		`cricket_step_duration_seconds{flow="run pod sandbox",ok="true",step="create sandbox"}`: 1,
		`cricket_step_duration_seconds{flow="pull image",ok="true"}`:                            1,
		`cricket_images`:                                1,
		`cricket_image_store_bytes`:                     1 << 20,
		`cricket_containers{state="CONTAINER_RUNNING"}`: 1,
		`cricket_build_info`:                            1,
	} {
		if got := value(all, name); got < least {
			t.Errorf("%s = %v, want at least %v", name, got, least)
		}
	}
	if InVMs() {
		for _, name := range []string{"cricket_vm_claims_total", "cricket_vm_pool_size", "cricket_vm_pool_refill_duration_seconds"} {
			if all[name] == nil {
				t.Errorf("%s is missing", name)
			}
		}
	}
}

// scrape reads and lints metrics.
func scrape(t *testing.T, address string) map[string]*dto.MetricFamily {
	t.Helper()
	resp, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	all, err := parser.TextToMetricFamilies(resp.Body)
	if err != nil {
		t.Fatalf("parse metrics: %v", err)
	}
	var families []*dto.MetricFamily
	for name, f := range all {
		if strings.HasPrefix(name, "cricket_") {
			families = append(families, f)
		}
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("lint: %v, %v", problems, err)
	}
	return all
}

// value adds up a family's values, or counts, whose labels hold those in NAME{LABELS}.
func value(all map[string]*dto.MetricFamily, which string) (sum float64) {
	name, labels, _ := strings.Cut(strings.TrimSuffix(which, "}"), "{")
	for _, m := range all[name].GetMetric() {
		has := map[string]bool{"": true}
		for _, l := range m.GetLabel() {
			has[fmt.Sprintf("%s=%q", l.GetName(), l.GetValue())] = true
		}
		fits := true
		for want := range strings.SplitSeq(labels, ",") {
			fits = fits && has[want]
		}
		if fits {
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return sum
}
