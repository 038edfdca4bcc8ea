package integration

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	bench "github.com/cricket-cri/cricket/cmd/cribench/figures"
	"github.com/cricket-cri/cricket/test/images"
)

// cribench is the measuring program, and the arguments that name this node.
func (n *Node) cribench() (program string, endpoint []string) {
	n.t.Helper()
	program = filepath.Join(n.t.TempDir(), "cribench")
	c := exec.CommandContext(n.t.Context(), "go", "build", "-buildvcs=false", "-o", program, "github.com/cricket-cri/cricket/cmd/cribench")
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		n.t.Fatalf("build cribench: %v\n%s", err, out)
	}
	return program, []string{"--endpoint", "node=unix://" + n.Paths.Socket, "--processes", "node=cricketd,cricket-monitor"}
}

// TestCribench measures everything there is, a little of each.
func TestCribench(t *testing.T) {
	n := Start(t)
	program, args := n.cribench()
	before := n.imageCount()
	args = append(args,
		"--measure", "all", "--pull-image", images.Nginx, "--restart", "node=true", "--json", "-",
		"--warm-up", "1", "--rounds", "2", "--parallel", "1,2", "--batch", "2", "--batches", "1", "--list-pods", "2", "--calls", "3",
		"--memory-pods", "1,2", "--idle", "1s", "--use", "true", "--repeat", "1", "--churn", "1s", "--workers", "2",
		"--restarts", "1", "--restart-pods", "2")
	c := exec.CommandContext(t.Context(), program, args...)
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	if err := c.Run(); err != nil {
		t.Fatalf("cribench: %v\n%s%s", err, &errs, &out)
	}
	run, err := bench.Read(&out)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(run.Sections(), " "); got != "memory start exec parallel-1 parallel-2 list-2 image log stream files network churn restart" {
		t.Errorf("sections are %s", got)
	}
	e := run.Endpoint("node")
	if e == nil || len(e.Errors) > 0 {
		t.Fatalf("measured %+v", e)
	}
	for key, samples := range map[string]int{
		"start/RunPodSandbox": 2, "start/RemovePodSandbox": 2, "start/pod start": 2, "exec/ExecSync": 6,
		"parallel-2/pods started": 1, "parallel-2/pod stop": 2, "list-2/ListPodSandboxStats": 3, "list-2/age of the oldest figure": 3,
		"memory/base PSS": 1, "memory/PSS a further pod": 1, "memory/idle processor time with 1 pods": 1,
		"image/PullImage": 1, "image/RemoveImage": 1, "log/log": 1, "log/daemon": 1,
		"stream/out of an exec": 1, "stream/out of a forwarded port": 1, "stream/into a forwarded port": 1,
		"files/volume: read": 1, "network/out of the pod": 1, "churn/pods created and removed": 1,
		"restart/until 2 pods are told right": 1,
	} {
		s := e.Find(key)
		if s == nil || len(s.Samples) != samples {
			t.Errorf("%s: %+v, want %d samples", key, s, samples)
			continue
		}
		if s.Section != "memory" && s.Unit != bench.Seconds && s.Min <= 0 {
			t.Errorf("%s: %v %s", key, s.Samples, s.Unit)
		}
	}
	start, run1 := e.Find("start/pod start"), e.Find("start/RunPodSandbox")
	if start.Min < run1.Min {
		t.Errorf("a pod starts in %v ms, its first call takes %v", start.Samples, run1.Samples)
	}
	n.foreign("", 0, before)
}

// TestCribenchIsInterrupted ends a run in its middle: its own pods and images go, another
// pod stays.
func TestCribenchIsInterrupted(t *testing.T) {
	n := Start(t)
	program, args := n.cribench()
	other, before := n.RunPod(n.PodConfig()), n.imageCount()
	c := exec.CommandContext(t.Context(), program, append(args, "--measure", "parallel,list", "--parallel", "3", "--batch", "1000")...)
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if len(n.sandboxes()) > 3 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("no pods after a minute:\n%s", &out)
		}
	}
	if err := c.Process.Signal(unix.SIGINT); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err == nil {
			t.Error("an interrupted run says that it is whole")
		}
	case <-time.After(2 * time.Minute):
		_ = c.Process.Kill()
		t.Fatal("it does not end")
	}
	n.foreign(other, 1, before)
	if !strings.Contains(out.String(), "PARALLEL-3") || !strings.Contains(out.String(), "the run was ended") {
		t.Errorf("what was measured is not shown:\n%s", &out)
	}
}

func (n *Node) sandboxes() []*cri.PodSandbox {
	n.t.Helper()
	r, err := n.Runtime.ListPodSandbox(context.WithoutCancel(n.t.Context()), &cri.ListPodSandboxRequest{})
	if err != nil {
		n.t.Fatal(err)
	}
	return r.GetItems()
}

// foreign checks that nothing is there but so many pods of others, ready, and the images that
// there were before.
func (n *Node) foreign(id string, count, imageCount int) {
	n.t.Helper()
	left := n.sandboxes()
	if len(left) != count || count > 0 && (left[0].GetId() != id || left[0].GetState() != cri.PodSandboxState_SANDBOX_READY) {
		n.t.Errorf("left is %v, want %d ready pods of others", left, count)
	}
	if got := n.imageCount(); got != imageCount {
		n.t.Errorf("%d images are there, before there were %d", got, imageCount)
	}
}

func (n *Node) imageCount() int {
	n.t.Helper()
	r, err := n.Images.ListImages(n.t.Context(), &cri.ListImagesRequest{})
	if err != nil {
		n.t.Fatal(err)
	}
	return len(r.GetImages())
}
