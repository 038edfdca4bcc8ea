package qemu

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"

	"github.com/cricket-cri/cricket/runtime/monitor"
	"github.com/cricket-cri/cricket/runtime/monitor/monitortest"
	"github.com/cricket-cri/cricket/vmsandbox/vmm"
)

// node is a hypervisor with all that belongs to it; its machines need not boot.
type node struct {
	monitor monitor.StartOptions
	pid     int // of the monitor
	state   string
	hull    vmm.Hypervisor
	config  vmm.Config
}

func newNode(t *testing.T) *node {
	t.Helper()
	n := &node{monitor: monitortest.Options(t), state: shortDir(t)}
	n.pid = monitortest.Start(t, n.monitor)
	var err error
	n.hull, err = New(Options{
		Program: program, State: n.state, Monitor: monitor.NewClient(monitor.DialPatiently(n.monitor.Socket, 5*time.Second)),
		Confine: &Confine{Launcher: []string{n.monitor.Binary, "confine"}, FirstUser: DefaultFirstUser, Users: 3, Files: DefaultFiles(program)},
	})
	if err != nil {
		t.Fatal(err)
	}
	removeAtEnd(t, n.hull)
	kernel, initrd := image(t)
	n.config = vmm.Config{ID: "m", Shape: shape(kernel, initrd), Deadline: patience}
	return n
}

// nothingLeft looks for what belonged to machines.
func (n *node) nothingLeft(t *testing.T) {
	t.Helper()
	if left, err := os.ReadDir(n.state); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(n.state))
	if err != nil || len(mounts) != 0 {
		t.Errorf("mounted still: %v, %v", mounts, err)
	}
	entries, err := monitor.NewClient(monitor.DialUnix(n.monitor.Socket)).List(context.Background())
	if err != nil || len(entries) != 0 {
		t.Errorf("the monitor has %v, %v", entries, err)
	}
}

// A start that fails says what QEMU said, and leaves nothing.
func TestFailedStart(t *testing.T) {
	n := newNode(t)
	ctx := background(t)
	garbage := filepath.Join(t.TempDir(), "kernel")
	if err := os.WriteFile(garbage, []byte(strings.Repeat("garbage ", 1<<16)), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		spoil func(c *vmm.Config)
		says  string
		kind  func(error) bool
	}{
		"kernel":    {func(c *vmm.Config) { c.Shape.Kernel = garbage }, "QEMU said:", errdefs.IsUnavailable},
		"no kernel": {func(c *vmm.Config) { c.Shape.Kernel = "/nonexistent" }, "find what to boot", errdefs.IsNotFound},
		"processor": {func(c *vmm.Config) { c.Shape.CPU = "abacus" }, "abacus", errdefs.IsUnavailable},
		"disk": {func(c *vmm.Config) {
			c.Disks = map[string]vmm.Disk{"ro1": {Files: []string{"/nonexistent"}, ReadOnly: true}}
		}, "ro1", errdefs.IsNotFound},
		"state": {func(c *vmm.Config) {
			c.State, c.Memory.File = memfd(t, 4096), memfd(t, memoryMiB<<20)
		}, "QEMU said:", errdefs.IsUnavailable},
		"deadline": {func(c *vmm.Config) { c.Deadline = time.Millisecond }, "deadline", func(err error) bool { return err != nil }},
	} {
		spoiled := n.config
		c.spoil(&spoiled)
		_, err := n.hull.Start(ctx, spoiled)
		if !c.kind(err) || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), spoiled.ID+":") {
			t.Errorf("%s: %v", name, err)
		}
		n.nothingLeft(t)
	}
}

// Of two starts under one name one succeeds, and machines have users of their own.
func TestNamesAndUsers(t *testing.T) {
	n := newNode(t)
	ctx := background(t)
	var starts sync.WaitGroup
	errs := make([]error, 2)
	for i := range errs {
		starts.Go(func() { _, errs[i] = n.hull.Start(ctx, n.config) })
	}
	starts.Wait()
	if (errs[0] == nil) == (errs[1] == nil) || !errdefs.IsAlreadyExists(errs[0]) && !errdefs.IsAlreadyExists(errs[1]) {
		t.Errorf("two starts under one name: %v", errs)
	}
	second := n.config
	second.ID = "m2"
	if _, err := n.hull.Start(ctx, second); err != nil {
		t.Fatal(err)
	}
	one, err := readRecord(filepath.Join(n.state, "m"))
	if err != nil {
		t.Fatal(err)
	}
	two, err := readRecord(filepath.Join(n.state, "m2"))
	if err != nil || one.User == two.User || one.User < DefaultFirstUser {
		t.Errorf("users %d and %d, %v", one.User, two.User, err)
	}
	for _, id := range []string{"m", "m2"} {
		if err := n.hull.Remove(ctx, id); err != nil {
			t.Fatal(err)
		}
	}
	n.nothingLeft(t)
}

// Machines live on when the monitor dies, and their death is noticed all the same.
func TestMonitorDies(t *testing.T) {
	n := newNode(t)
	ctx := background(t)
	m, err := n.hull.Start(ctx, n.config)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(n.pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	monitortest.Start(t, n.monitor)
	if err := m.Pause(ctx); err != nil {
		t.Errorf("without its monitor the machine does not obey: %v", err)
	}
	_ = m.Close()
	again, err := n.hull.Attach(ctx, m.ID())
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(again.Pid(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	select {
	case <-again.Done():
	case <-time.After(2 * time.Second):
		t.Error("nobody notices that QEMU was killed")
	}
	_ = again.Close()
	if _, err := n.hull.Attach(ctx, m.ID()); !errdefs.IsNotFound(err) {
		t.Errorf("attach to a dead machine: %v", err)
	}
	if err := n.hull.Remove(ctx, m.ID()); err != nil {
		t.Error(err)
	}
	n.nothingLeft(t)
}
