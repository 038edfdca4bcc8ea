package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
)

// pod is a place with a kubelet's directory, a guest and a Set.
type pod struct {
	t     *testing.T
	dir   string // the kubelet's directory of the pod
	base  string
	guest *fakeGuest
	set   *Set
	// watcher is that of all Sets of the pod.
	watcher *Watcher
	// machine is the directory made by MakeDir, root where the mount namespace of a
	// stand-in for the hypervisor begins.
	machine, root string
	// disks are files that the first emptyDirs on disks have for themselves.
	disks []string
}

const disk = "/cricket/disks/rw0"

func newPod(t *testing.T) *pod {
	t.Helper()
	base := t.TempDir()
	p := &pod{t: t, base: base, dir: filepath.Join(base, "pods", "uid-1"), guest: newFakeGuest(t), watcher: NewWatcher()}
	t.Cleanup(func() {
		if err := p.watcher.Close(); err != nil {
			t.Error(err)
		}
	})
	p.mkdir(p.dir, 0o750)
	p.mkdir(p.guest.path(disk), 0o755)
	machine := filepath.Join(base, "machine", "volumes")
	if err := MakeDir(machine); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := RemoveDir(machine); err != nil {
			t.Error(err)
		}
		assertNoMounts(t, base)
	})
	p.machine, p.root = machine, slaveNamespace(t)
	p.set = p.open(Options{Dir: machine})
	return p
}

// slaveNamespace starts a process with a mount namespace like the hypervisor's.
func slaveNamespace(t *testing.T) string {
	t.Helper()
	c := exec.Command("unshare", "--mount", "--propagation", "slave", "sh", "-c", "echo; exec cat")
	in, inErr := c.StdinPipe()
	out, outErr := c.StdoutPipe()
	if err := errors.Join(inErr, outErr, c.Start()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = in.Close(); _ = c.Wait() })
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("/proc/%d/root", c.Process.Pid)
}

func (p *pod) open(o Options) *Set {
	p.t.Helper()
	o.Guest, o.Watcher = p.guest, p.watcher
	o.Disk = func(_ context.Context, nth int) (string, string, error) {
		if nth < len(p.disks) {
			return disk, p.disks[nth], nil
		}
		return disk, "", nil
	}
	s, err := New(o)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		if err := s.Close(); err != nil {
			p.t.Error(err)
		}
	})
	return s
}

func (p *pod) mkdir(dir string, mode os.FileMode) {
	p.t.Helper()
	if err := os.MkdirAll(dir, mode); err != nil {
		p.t.Fatal(err)
	}
}

func (p *pod) write(path, content string) {
	p.t.Helper()
	p.mkdir(filepath.Dir(path), 0o755)
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		p.t.Fatal(err)
	}
}

func (p *pod) mount(kind, source, target string, options string) {
	p.t.Helper()
	flags := uintptr(0)
	if kind == "" {
		flags = unix.MS_BIND
	}
	p.mkdir(target, 0o755)
	if err := unix.Mount(source, target, kind, flags, options); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = unix.Unmount(target, unix.MNT_DETACH) })
}

func (p *pod) add(container string, m runtime.Mount) runtime.Mount {
	p.t.Helper()
	if m.Destination == "" {
		m.Destination = "/mnt"
	}
	out, err := p.set.Add(p.t.Context(), container, m)
	if err != nil {
		p.t.Fatal(err)
	}
	return out
}

// read returns the content of a file of the guest, following links in there.
func (p *pod) read(path string) string {
	b, err := os.ReadFile(p.guest.path(path))
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// shared returns where the hypervisor sees a shared volume.
func (p *pod) shared(m runtime.Mount) string {
	rel, ok := below(m.Source, sharedDir)
	if !ok {
		p.t.Fatalf("%s is not shared", m.Source)
	}
	if p.set.state.Dir != p.machine {
		return filepath.Join(p.set.state.Dir, rel)
	}
	return filepath.Join(p.root, p.machine, rel)
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if f() {
			return
		}
	}
	t.Fatalf("not within 10 s: %s", what)
}

func assertNoMounts(t *testing.T, dir string) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, dir) {
			t.Errorf("left mounted: %s", line)
		}
	}
}
