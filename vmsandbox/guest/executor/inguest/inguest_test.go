// Package inguest runs the executor's tests in a guest, with its kernel and nothing but
// cgroup v2.
package inguest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/monitor"
	"github.com/cricket-cri/cricket/runtime/spec"
	"github.com/cricket-cri/cricket/vmsandbox/agent"
	"github.com/cricket-cri/cricket/vmsandbox/guest/guesttest"
)

// TestInGuest runs them in a privileged container, whose containers lie beside it.
func TestInGuest(t *testing.T) {
	m := guesttest.Boot(t, guesttest.Config{Disks: map[string]string{"ro0": image(t)}, MemoryMiB: 512})
	mount(t, m, agent.Mount{Slot: "ro0", Target: agent.DirDisks + "/ro0", Type: "erofs", Options: []string{"ro"}})
	mount(t, m, agent.Mount{Source: "tmpfs", Target: agent.DirVolumes + "/upper", Type: "tmpfs"})
	start(t, m, "tests", "/executor.test", "be-the-payload", "sleep")
	var times []time.Duration
	used := cpu(t, m.Pid)
	for i := range rounds {
		id := string(rune('a' + i))
		began := time.Now()
		start(t, m, id, "/executor.test", "be-the-payload", "sleep")
		times = append(times, time.Since(began))
		if err := m.Monitor.Delete(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(times)
	t.Logf("created and started, from the host: %v to %v, p50 %v; created, started and deleted with %v of CPU time", times[0], times[rounds-1], times[rounds/2], (cpu(t, m.Pid)-used)/rounds)
	var out bytes.Buffer
	p := process("/executor.test", "-test.v")
	if os.Getenv("CRICKET_TEST_LONG") != "" {
		p.Args = append(p.Args, "-test.bench=.", "-test.benchtime=50x")
	}
	exit, err := m.Monitor.Exec(t.Context(), "tests", monitor.ExecRequest{Process: *p, Timeout: 5 * time.Minute}, runtime.Streams{Stdout: &out, Stderr: &out})
	if err != nil || exit.Code != 0 || !strings.HasSuffix(out.String(), "PASS\n") {
		t.Errorf("%+v, %v", exit, err)
	}
	t.Log(out.String())
}

const rounds = 20

// cpu is what a process has used.
func cpu(t *testing.T, pid int) time.Duration {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	var user, system time.Duration
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')'):]))
	if _, err := fmt.Sscan(fields[12]+" "+fields[13], &user, &system); err != nil {
		t.Fatal(err)
	}
	return (user + system) * 10 * time.Millisecond // ticks
}

// image has the tests of the executor.
func image(t *testing.T) string {
	t.Helper()
	dir, file := t.TempDir(), filepath.Join(t.TempDir(), "image")
	for _, d := range []string{"proc", "dev", "sys", "tmp", "etc"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	build := exec.Command("go", "test", "-vet=off", "-c", "-ldflags=-s -w", "-o", filepath.Join(dir, "executor.test"), "..")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	for _, cmd := range []*exec.Cmd{build, exec.Command("mkfs.erofs", "--quiet", file, dir)} {
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", cmd, err, out)
		}
	}
	return file
}

func mount(t *testing.T, m *guesttest.Machine, a agent.Mount) {
	t.Helper()
	if err := m.Guest.Mount(t.Context(), a); err != nil {
		t.Fatal(err)
	}
}

func process(args ...string) *specs.Process {
	all := spec.AllCapabilities()
	return &specs.Process{Args: args, Cwd: "/", Env: []string{"PATH=/"}, Capabilities: &specs.LinuxCapabilities{Bounding: all, Effective: all, Permitted: all}}
}

func start(t *testing.T, m *guesttest.Machine, id string, args ...string) {
	t.Helper()
	upper := agent.DirVolumes + "/upper/" + id
	err := m.Guest.Put(t.Context(), []agent.File{{Path: upper, Mode: unix.S_IFDIR | 0o755}, {Path: upper + "/upper", Mode: unix.S_IFDIR | 0o755}, {Path: upper + "/work", Mode: unix.S_IFDIR | 0o755}})
	if err != nil {
		t.Fatal(err)
	}
	s := &specs.Spec{
		Version: spec.Version, Root: &specs.Root{Path: "rootfs"}, Process: process(args...),
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"}, {Destination: "/dev", Type: "bind", Source: "/dev", Options: []string{"rbind"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs"}, {Destination: "/tmp", Type: "tmpfs", Source: "tmpfs"},
			{Destination: "/sys/fs/cgroup", Type: "bind", Source: "/sys/fs/cgroup", Options: []string{"rbind"}},
		},
		Linux: &specs.Linux{CgroupsPath: agent.PodCgroup + "/" + id, Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.NetworkNamespace}}},
	}
	_, err = m.Monitor.Create(t.Context(), monitor.CreateRequest{
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
