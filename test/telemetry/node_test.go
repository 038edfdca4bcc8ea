package telemetry

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/test/images"
	"github.com/cricket-cri/cricket/test/integration"
)

// TestPod drives one pod from the pull of its image to a command in it, some calls that fail,
// and every method there is. Prometheus has the figures of all that, and the collector
// its traces.
func TestPod(t *testing.T) {
	c := startCollector(t, nil)
	metrics := freePort(t)
	n := integration.StartPool(t, 1, append(traced(t, c, 1e6), "--metrics-address", metrics)...)
	t.Cleanup(c.stop)
	p := startPrometheus(t, metrics)
	p.holds(`up{job="cricket"} == 1`)

	ctx := within(t.Context(), podTrace)
	image := heldPull(ctx, t, n, p)
	pod, container := drive(ctx, t, n, image)
	answers := callEverything(within(t.Context(), callsTrace), t, n.Paths.Socket)
	checkFigures(p)
	checkCounts(p, answers)
	checkScrapes(t, p)
	judge(t, page(t, metrics))

	// They are the last: what ended before them is there when they are.
	integration.Within(t, time.Minute, "spans of all calls come through the collector", func() bool {
		return len(calls(c)) == len(answers)
	})
	checkPod(t, c, pod, container)
	checkCalls(t, c, answers)
	checkStock(t, c)
	for _, s := range c.got.Spans("") {
		if s.Service != "cricketd" {
			t.Errorf("%s is of the service %q", s.Name, s.Service)
		}
	}
}

// heldPull pulls an image from a registry that holds its layers back until Prometheus has seen
// the pull under way.
func heldPull(ctx context.Context, t *testing.T, n *integration.Node, p *prometheus) string {
	t.Helper()
	img, err := n.Set.Image(images.Busybox)
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	seen := make(chan struct{})
	r := images.NewRegistry(n.Set)
	r.Before = func(_ http.ResponseWriter, req *http.Request) bool {
		if strings.Contains(req.URL.Path, "/blobs/") && !strings.HasSuffix(req.URL.Path, config.String()) {
			select {
			case <-seen:
			case <-req.Context().Done():
			}
		}
		return false
	}
	server, address, err := r.Serve("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	hosts := filepath.Join(n.Paths.Hosts, address)
	if err := os.MkdirAll(hosts, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(hosts, "hosts.toml"), []byte("server = \"http://"+address+"\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, path, _ := strings.Cut(images.Busybox, "/")
	pulled := make(chan error, 1)
	go func() {
		_, err := n.Images.PullImage(ctx, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: address + "/" + path}})
		pulled <- err
	}()
	p.holds(`cricket_image_pulls_active == 1 and cricket_image_pull_active_expected_bytes > 1e5
		and cricket_image_pull_active_layers >= 1 and cricket_image_pull_active_bytes < cricket_image_pull_active_expected_bytes`)
	close(seen)
	if err := <-pulled; err != nil {
		t.Fatal(err)
	}
	return address + "/" + path
}

// drive runs a pod with a container, a command in that, and two calls that fail.
func drive(ctx context.Context, t *testing.T, n *integration.Node, image string) (pod, container string) {
	t.Helper()
	fails := func(err error, want ...codes.Code) {
		t.Helper()
		if !slices.Contains(want, status.Code(err)) {
			t.Fatalf("a call that is to fail with %v ends with %v", want, err)
		}
	}
	p := n.PodConfig()
	r, err := n.Runtime.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: p})
	if err != nil {
		t.Fatal(err)
	}
	config := n.ContainerConfig("sleep", "3600")
	config.Image.Image = image
	c, err := n.Runtime.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: r.GetPodSandboxId(), Config: config, SandboxConfig: p})
	if err != nil {
		t.Fatal(err)
	}
	start := &cri.StartContainerRequest{ContainerId: c.GetContainerId()}
	if _, err := n.Runtime.StartContainer(ctx, start); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Runtime.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: c.GetContainerId(), Cmd: []string{"true"}, Timeout: 60}); err != nil {
		t.Fatal(err)
	}
	_, err = n.Runtime.StartContainer(ctx, start)
	fails(err, codes.FailedPrecondition)
	_, err = n.Images.PullImage(ctx, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: strings.Replace(images.Busybox, "busybox", "no-such-image", 1)}})
	fails(err, codes.NotFound, codes.Unavailable)
	return r.GetPodSandboxId(), c.GetContainerId()
}
