package vmsandbox

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/sandbox"
	"github.com/cricket-cri/cricket/sandbox/cgroup"
)

func newID() string {
	id := make([]byte, 32)
	_, _ = rand.Read(id)
	return hex.EncodeToString(id)
}

// podConfig is a pod with a cgroup of its own, which must be gone when the test ends.
func podConfig(t *testing.T) sandbox.Config {
	c := sandbox.Config{
		ID: newID(), Name: "pod", Hostname: "host1", Network: runtime.NamespacePod, IPC: runtime.NamespacePod,
		PID: runtime.NamespaceContainer,
	}
	c.CgroupParent = "/cricket-test-vm-" + c.ID[:12]
	t.Cleanup(func() {
		tree, err := cgroup.Open()
		if err == nil && tree.Exists(c.CgroupParent) {
			t.Error("the pod's cgroup is left")
			err = tree.Remove(c.CgroupParent)
		}
		if err != nil {
			t.Error(err)
		}
	})
	return c
}

func containerConfig(layers ...string) runtime.Config {
	c := runtime.Config{ID: newID(), Args: []string{"true"}, LogPath: "/var/log/x", PID: runtime.NamespaceContainer}
	for _, l := range layers {
		c.Image = append(c.Image, digest.FromString(l))
	}
	return c
}

// running makes a pod that is removed at the end.
func running(t *testing.T, w *world, c sandbox.Config) *pod {
	t.Helper()
	s, err := w.driver().Create(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Remove(context.Background()); err != nil {
			t.Error(err)
		}
		if left := w.left(); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	})
	return s.(*pod)
}

func started(t *testing.T, p *pod, c runtime.Config) runtime.Container {
	t.Helper()
	made, err := p.NewContainer(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if err := made.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return made
}

func machineOf(w *world, p *pod) *fakeMachine { return w.machines[p.snapshot().Machine] }

func TestPodLives(t *testing.T) {
	w := newWorld(t)
	p := running(t, w, podConfig(t))
	s := p.Status()
	if !s.Ready || len(s.IPs) != 1 || s.NetNS == "" || s.CgroupPath != p.config().CgroupParent {
		t.Errorf("status = %+v", s)
	}
	for _, call := range []string{"identify host1", "cross netns eth0", "connect eth0", "mount tmpfs " + podFiles + "/shm"} {
		if !w.has(call) {
			t.Errorf("no call %q in %q", call, w.calls)
		}
	}
	pids, err := p.driver.cgroup.Pids(p.cgroupPath())
	if err != nil || !slices.Equal(pids, []int{p.machine.Pid()}) {
		t.Errorf("processes in the pod's cgroup: %v, %v", pids, err)
	}
	for range 2 {
		if err := p.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if s := p.Status(); s.Ready || s.NetNS != "" {
		t.Errorf("status after stop = %+v", s)
	}
	if left := w.left(); !slices.Equal(left, []string{p.id}) {
		t.Errorf("left after stop: %v", left)
	}
}

// Whatever fails, nothing of the pod stays.
func TestFailedCreateLeavesNothing(t *testing.T) {
	for _, call := range []string{
		"claim", "identify host1", "hello", "sysctl", "put 4", "mount tmpfs " + podFiles + "/shm", "hold",
		"add network", "cross netns eth0", "connect eth0",
	} {
		t.Run(call, func(t *testing.T) {
			w := newWorld(t)
			w.failing = call
			c := podConfig(t)
			c.PID = runtime.NamespacePod
			if _, err := w.driver().Create(t.Context(), c); !errors.Is(err, errBroken) {
				t.Errorf("error = %v", err)
			}
			if left := w.left(); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestFailedContainerLeavesNothing(t *testing.T) {
	for _, call := range []string{"flat", "set ro0 1", "mount erofs /cricket/disks/ro0", "add volume", "put 5", "create", "mirror /var/log/x"} {
		t.Run(call, func(t *testing.T) {
			w := newWorld(t)
			p := running(t, w, podConfig(t))
			w.failing = call
			c := containerConfig("a")
			c.Mounts = []runtime.Mount{{Destination: "/v", Source: "/tmp"}}
			if _, err := p.NewContainer(t.Context(), c); !errors.Is(err, errBroken) {
				t.Errorf("error = %v", err)
			}
			ids, _ := p.containerIDs()
			if len(ids)+len(w.mirrors)+len(w.volumes)+len(machineOf(w, p).monitor.containers) > 0 {
				t.Errorf("left behind: %v %v %v", ids, w.mirrors, w.volumes)
			}
			w.failing = ""
			if _, err := p.NewContainer(t.Context(), c); err != nil {
				t.Errorf("second attempt: %v", err)
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	w := newWorld(t)
	for field, change := range map[string]func(*sandbox.Config){
		"network": func(c *sandbox.Config) { c.Network = runtime.NamespaceNode },
		"pid":     func(c *sandbox.Config) { c.PID = runtime.NamespaceNode },
		"ipc":     func(c *sandbox.Config) { c.IPC = runtime.NamespaceNode },
	} {
		c := podConfig(t)
		change(&c)
		_, err := w.driver().Create(t.Context(), c)
		refused(t, err, "namespace_options."+field+": NODE")
	}
	p := running(t, w, podConfig(t))
	for field, change := range map[string]func(*runtime.Config){
		"devices: /dev/fuse": func(c *runtime.Config) { c.Devices = []runtime.Device{{HostPath: "/dev/fuse"}} },
		"apparmor: mine":     func(c *runtime.Config) { c.ApparmorProfile = "mine" },
		"pid: NODE":          func(c *runtime.Config) { c.PID = runtime.NamespaceNode },
		"propagation BIDIRECTIONAL": func(c *runtime.Config) {
			c.Mounts = []runtime.Mount{{Destination: "/v", Source: "/tmp", Propagation: runtime.PropagationBidirectional}}
		},
	} {
		c := containerConfig("a")
		change(&c)
		_, err := p.NewContainer(t.Context(), c)
		refused(t, err, field)
	}
}

func refused(t *testing.T, err error, field string) {
	t.Helper()
	if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), field) || !strings.Contains(err.Error(), "docs/limitations.md") {
		t.Errorf("error = %v, want InvalidArgument about %q", err, field)
	}
}

// A machine that dies is a pod that died, and still one that can be stopped and removed.
func TestDeadMachine(t *testing.T) {
	w := newWorld(t)
	p := running(t, w, podConfig(t))
	known, unknown := started(t, p, containerConfig("a")), started(t, p, containerConfig("a"))
	if err := known.Signal(t.Context(), unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if exit, err := known.Wait(t.Context()); err != nil || exit.Code != 143 {
		t.Fatalf("exit = %+v, %v", exit, err)
	}
	waiting := make(chan runtime.Exit, 1)
	go func() {
		exit, _ := unknown.Wait(context.Background())
		waiting <- exit
	}()
	time.Sleep(20 * time.Millisecond)
	machineOf(w, p).die()
	expectLost(t, p, waiting)
	if exit, err := known.Wait(t.Context()); err != nil || exit.Code != 143 || exit.Unknown {
		t.Errorf("exit that was known = %+v, %v", exit, err)
	}
	if s, err := unknown.State(t.Context()); err != nil || s.Phase != runtime.Exited || !s.Exit.Unknown || s.StartedAt.IsZero() {
		t.Errorf("state = %+v, %v", s, err)
	}
	if err := unknown.Signal(t.Context(), unix.SIGKILL); err != nil {
		t.Errorf("signal: %v", err)
	}
	if _, err := p.NewContainer(t.Context(), containerConfig("a")); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("new container in a dead pod: %v", err)
	}
	if err := unknown.Remove(t.Context()); err != nil {
		t.Errorf("remove: %v", err)
	}
}

func expectLost(t *testing.T, p *pod, waiting <-chan runtime.Exit) {
	t.Helper()
	timeout := time.After(2 * time.Second)
	select {
	case exit := <-waiting:
		if !exit.Unknown || exit.Code != -1 {
			t.Errorf("exit = %+v", exit)
		}
	case <-timeout:
		t.Error("Wait does not end with the machine")
	}
	select {
	case <-p.Done():
	case <-timeout:
		t.Error("the sandbox is not done")
	}
	if p.Status().Ready {
		t.Error("the sandbox is ready")
	}
}

func TestHangingGuest(t *testing.T) {
	w := newWorld(t)
	p := running(t, w, podConfig(t))
	c := started(t, p, containerConfig("a"))
	waiting := make(chan runtime.Exit, 1)
	go func() {
		exit, _ := c.Wait(context.Background())
		waiting <- exit
	}()
	m := machineOf(w, p)
	m.monitor.mu.Lock()
	m.monitor.hangs = make(chan struct{})
	m.monitor.mu.Unlock()
	expectLost(t, p, waiting)
	select {
	case <-m.done:
	case <-time.After(time.Second):
		t.Error("the machine that hangs still runs")
	}
}

func TestAttachAfterRestart(t *testing.T) {
	w := newWorld(t)
	p := running(t, w, podConfig(t))
	c := started(t, p, containerConfig("a", "b"))
	ended := started(t, p, containerConfig("a"))
	_ = ended.Signal(t.Context(), unix.SIGKILL)
	if _, err := ended.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}

	next := w.driver()
	if machines, err := next.Claimed(); err != nil || !slices.Equal(machines, []string{p.snapshot().Machine}) {
		t.Errorf("claimed = %v, %v", machines, err)
	}
	s, err := next.Attach(t.Context(), p.Record())
	if err != nil {
		t.Fatal(err)
	}
	again := s.(*pod)
	if !again.Status().Ready || len(again.Status().IPs) != 1 {
		t.Errorf("status = %+v", again.Status())
	}
	found, err := again.Container(t.Context(), ended.(*container).id)
	if err != nil {
		t.Fatal(err)
	}
	if exit, err := found.Wait(t.Context()); err != nil || exit.Code != 137 {
		t.Errorf("exit = %+v, %v", exit, err)
	}
	before := len(w.calls)
	if _, err := again.NewContainer(t.Context(), containerConfig("a", "b")); err != nil {
		t.Fatal(err)
	}
	if slices.Contains(w.calls[before:], "flat") {
		t.Error("a layer that the guest has was attached anew")
	}
	owners, err := next.Containers(t.Context())
	if err != nil || len(owners) != 3 || owners[c.(*container).id] != p.id {
		t.Errorf("containers = %v, %v", owners, err)
	}

	machineOf(w, p).die()
	gone, err := w.driver().Attach(t.Context(), p.Record())
	if !errors.Is(err, sandbox.ErrGone) || gone == nil || gone.Status().Ready {
		t.Fatalf("attach to a dead machine: %v", err)
	}
	if err := gone.Remove(t.Context()); err != nil {
		t.Error(err)
	}
}

// A machine that lives and does not answer is not given up at once.
func TestAttachTriesAgain(t *testing.T) {
	w := newWorld(t)
	p := running(t, w, podConfig(t))
	next := w.driver()
	w.failing = "attach"
	for i := range attachTries {
		s, err := next.Attach(t.Context(), p.Record())
		last := i == attachTries-1
		if errors.Is(err, sandbox.ErrGone) != last || (s != nil) != last {
			t.Errorf("attempt %d: %v, %v", i, s, err)
		}
	}
	w.failing = ""
	if s, err := w.driver().Attach(t.Context(), p.Record()); err != nil || !s.Status().Ready {
		t.Errorf("once it answers: %v", err)
	}
}

func TestRelease(t *testing.T) {
	w := newWorld(t)
	d := w.driver()
	s, err := d.Create(t.Context(), podConfig(t))
	if err != nil {
		t.Fatal(err)
	}
	p := s.(*pod)
	record := s.Record()
	if err := d.Release(); err != nil || !w.has("release volumes") {
		t.Errorf("release: %v", err)
	}
	again, err := w.driver().Attach(t.Context(), record)
	if err != nil || !again.Status().Ready || s.Status().Ready {
		t.Fatalf("attach to what was let go of: %v", err)
	}
	if err := p.Remove(t.Context()); err != nil {
		t.Error(err)
	}
	if left := w.left(); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestSweep(t *testing.T) {
	w := newWorld(t)
	p := running(t, w, podConfig(t))
	c := started(t, p, containerConfig("a"))
	next := w.driver()
	if err := next.SweepContainer(t.Context(), p.id, c.(*container).id); err != nil {
		t.Fatal(err)
	}
	if n := len(machineOf(w, p).monitor.containers); n != 0 {
		t.Errorf("%d containers after the sweep", n)
	}
	w.failing = "attach"
	if again, err := next.Attach(t.Context(), p.Record()); err != nil || !again.Status().Ready {
		t.Errorf("attach to what is attached to: %v", err)
	}
	if err := w.driver().Sweep(t.Context(), p.id); err != nil {
		t.Fatal(err)
	}
	if left := w.left(); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if ids, err := next.List(t.Context()); err != nil || len(ids) > 0 {
		t.Errorf("list = %v, %v", ids, err)
	}
}
