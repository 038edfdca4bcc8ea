package guesttest

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime/monitor"
	"github.com/cricket-cri/cricket/runtime/spec"
	"github.com/cricket-cri/cricket/vmsandbox/agent"
)

// Tests is an image with the test programs of packages, by their names, and directories.
// More are other names of a program.
func Tests(t testing.TB, packages, more map[string]string, dirs ...string) string {
	t.Helper()
	dir, file := t.TempDir(), filepath.Join(t.TempDir(), "image")
	for _, d := range append([]string{"proc", "dev", "sys", "tmp", "etc"}, dirs...) {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	var commands []*exec.Cmd
	for _, name := range slices.Sorted(maps.Keys(packages)) {
		build := exec.Command("go", "test", "-vet=off", "-c", "-ldflags=-s -w", "-o", filepath.Join(dir, name), packages[name])
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		commands = append(commands, build)
	}
	for name, of := range more {
		commands = append(commands, exec.Command("ln", filepath.Join(dir, of), filepath.Join(dir, name)))
	}
	for _, c := range append(commands, exec.Command("mkfs.erofs", "--quiet", file, dir)) {
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", c, err, out)
		}
	}
	return file
}

// Process is one with all capabilities.
func Process(args ...string) *specs.Process {
	all := spec.AllCapabilities()
	return &specs.Process{Args: args, Cwd: "/", Env: []string{"PATH=/"}, Capabilities: &specs.LinuxCapabilities{Bounding: all, Effective: all, Permitted: all}}
}

// Mount mounts something in the guest.
func (m *Machine) Mount(t testing.TB, a agent.Mount) {
	t.Helper()
	if err := m.Guest.Mount(t.Context(), a); err != nil {
		t.Fatal(err)
	}
}

// StartPrivileged starts a container of the image in slot ro0, which is mounted, with what
// it writes in the guest's memory below upper, a directory.
func (m *Machine) StartPrivileged(t testing.TB, id, upper string, p *specs.Process, mounts ...specs.Mount) {
	t.Helper()
	upper += "/" + id
	err := m.Guest.Put(t.Context(), []agent.File{{Path: upper, Mode: unix.S_IFDIR | 0o755}, {Path: upper + "/upper", Mode: unix.S_IFDIR | 0o755}, {Path: upper + "/work", Mode: unix.S_IFDIR | 0o755}})
	if err != nil {
		t.Fatal(err)
	}
	s := &specs.Spec{
		Version: spec.Version, Root: &specs.Root{Path: "rootfs"}, Process: p,
		Mounts: append([]specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"}, {Destination: "/dev", Type: "bind", Source: "/dev", Options: []string{"rbind"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs"}, {Destination: "/tmp", Type: "tmpfs", Source: "tmpfs"},
			{Destination: "/sys/fs/cgroup", Type: "bind", Source: "/sys/fs/cgroup", Options: []string{"rbind"}},
		}, mounts...),
		Linux: &specs.Linux{CgroupsPath: agent.PodCgroup + "/" + id, Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.NetworkNamespace}}},
	}
	m.Start(t, id, upper, s)
}

// Start starts a container of the image in slot ro0, which is mounted. What it writes goes
// below upper, a directory with an upper and a work.
func (m *Machine) Start(t testing.TB, id, upper string, s *specs.Spec) {
	t.Helper()
	_, err := m.Monitor.Create(t.Context(), monitor.CreateRequest{
		ID: id, Bundle: agent.DirContainers + "/" + id, Spec: s, LogPath: agent.DirLogs + "/" + id, Cgroup: agent.PodCgroup + "/" + id,
		Rootfs: monitor.Overlay{Target: "rootfs", Lower: []string{agent.DirDisks + "/ro0"}, Upper: upper + "/upper", Work: upper + "/work"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Monitor.Start(t.Context(), id); err != nil {
		t.Fatal(err)
	}
}
