package template

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/vmsandbox/tree"
	"github.com/cricket-cri/cricket/vmsandbox/vmm"
)

func TestWhatAnEarlierDaemonLeft(t *testing.T) {
	f := newFixture(t, Options{Size: 1}).begin(t)
	f.stocked(t, 1)
	mine := f.claim(t)
	f.stocked(t, 1)
	_ = mine.Session.Close()
	// The daemon is killed: nothing is closed.
	o := f.options
	o.Size = 0
	next, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	_, _ = f.disks.Take(t.Context(), "orphan", "rw0")
	id := mine.Machine.ID()
	if err := next.Start(t.Context(), []string{id}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a template", func() bool { return next.Status().Ready })
	f.stop() // the first pool would replace the machine
	f.work.Wait()
	if err := next.reconcile(t.Context(), []string{id}); err != nil {
		t.Fatal(err)
	}
	f.nothing(t, id)
	vm, err := next.Attach(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if vm.Origin != Attached || vm.Volumes != mine.Volumes || vm.Info.Kernel == "" || vm.Ping(t.Context()) != nil {
		t.Errorf("attached = %+v", vm)
	}
	_ = vm.Close()
	f.h.machine(id).kill()
	if _, err := next.Attach(t.Context(), id); !errdefs.IsNotFound(err) {
		t.Errorf("attach to a dead machine: %v", err)
	}
	for range 2 {
		if err := next.Remove(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	f.nothing(t)
}

func TestUnsharedMachinesAreBooted(t *testing.T) {
	f := newFixture(t, Options{Size: 1, Unshared: true}).begin(t)
	f.stocked(t, 1)
	if vm := f.claim(t); vm.Origin != Parked {
		t.Errorf("origin = %s", vm.Origin)
	}
	f.stocked(t, 1)
	if _, templates, clones := f.h.count(); templates+clones != 0 {
		t.Errorf("%d templates, %d clones", templates, clones)
	}
}

func TestTemplateOfAnotherHypervisor(t *testing.T) {
	f := newFixture(t, Options{}).begin(t)
	if vm := f.claim(t); vm.Origin != Cloned {
		t.Errorf("origin = %s", vm.Origin)
	}
	f.h.set(func() { f.h.version = "2" })
	if vm := f.claim(t); vm.Origin != Cloned {
		t.Errorf("origin = %s", vm.Origin)
	}
	if s := f.Status(); s.Stats.Templates != 2 {
		t.Errorf("stats = %+v", s.Stats)
	}
}

func TestTemplateIsSealed(t *testing.T) {
	f := newFixture(t, Options{}).begin(t)
	f.claim(t)
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, file := range []*os.File{f.image.memory, f.image.state} {
		if _, err := file.WriteAt([]byte("x"), 0); !errors.Is(err, unix.EPERM) {
			t.Errorf("write to %s: %v", file.Name(), err)
		}
	}
	b := make([]byte, 6)
	if _, err := f.image.memory.ReadAt(b, 0); err != nil || string(b) != "memory" {
		t.Errorf("memory = %q, %v", b, err)
	}
}

// TestStockIsMadeWithLowPriority uses processes that stand for machines.
func TestStockIsMadeWithLowPriority(t *testing.T) {
	f := newFixture(t, Options{Size: 1})
	f.h.pid = func() int {
		cmd := exec.Command("sleep", "600")
		if err := cmd.Start(); err != nil {
			return 0
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		return cmd.Process.Pid
	}
	normal := nice(t, os.Getpid())
	f.begin(t)
	f.stocked(t, 1)
	ids, _ := f.h.List(t.Context())
	pid := f.h.machine(ids[0]).Pid()
	if n := nice(t, pid); n != lowest {
		t.Errorf("parked with priority %d", n)
	}
	if vm := f.claim(t); nice(t, vm.Machine.Pid()) != normal || vm.Machine.Pid() != pid {
		t.Errorf("claimed with priority %d, want %d", nice(t, vm.Machine.Pid()), normal)
	}
}

func nice(t *testing.T, pid int) int {
	t.Helper()
	n, err := unix.Getpriority(unix.PRIO_PROCESS, pid)
	if err != nil {
		t.Fatal(err)
	}
	return 20 - n
}

// TestRemoveLeavesVolumesAlone removes a machine into whose directory others are bound.
func TestRemoveLeavesVolumesAlone(t *testing.T) {
	f := newFixture(t, Options{}).begin(t)
	vm := f.claim(t)
	precious := t.TempDir()
	if err := os.WriteFile(filepath.Join(precious, "data"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	inner := filepath.Join(vm.Volumes, "hostpath")
	_ = os.WriteFile(filepath.Join(vm.Volumes, "made-by-the-guest"), nil, 0o600)
	if err := os.Mkdir(inner, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(precious, inner, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	parent, err := os.Open(f.options.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer parent.Close()
	if err := tree.RemoveAt(int(parent.Fd()), vm.Machine.ID()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a mount was entered: %v", err)
	}
	if err := f.Remove(t.Context(), vm.Machine.ID()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(precious, "data")); err != nil {
		t.Error(err)
	}
	f.nothing(t)
}

func TestTapIsMadeAndReleased(t *testing.T) {
	var mu sync.Mutex
	made := map[string]bool{}
	f := newFixture(t, Options{
		Tap: func(path string) (*os.File, error) {
			mu.Lock()
			defer mu.Unlock()
			made[path] = true
			return os.Open(os.DevNull)
		},
		Release: func(path string) error {
			mu.Lock()
			defer mu.Unlock()
			delete(made, path)
			return nil
		},
	}).begin(t)
	vm := f.claim(t)
	mu.Lock()
	if len(made) != 1 || !made[vm.NetNS] {
		t.Errorf("%v for %s", made, vm.NetNS)
	}
	mu.Unlock()
	f.h.set(func() { f.h.start = func(vmm.Config) error { return errors.New("out of luck") } })
	if _, err := f.Claim(t.Context()); err == nil {
		t.Error("a machine without a hypervisor")
	}
	if err := f.Remove(t.Context(), vm.Machine.ID()); err != nil || len(made) != 0 {
		t.Errorf("left %v, %v", made, err)
	}
	f.nothing(t)
}

func TestPausesGrow(t *testing.T) {
	var a attempts
	for i := range 100 {
		a.failed(errors.New("x"))
		if d := time.Until(a.after); d < min(firstPause<<min(i, 20), lastPause)-time.Second || d > lastPause {
			t.Errorf("pause %d is %v", i, d)
		}
	}
}
