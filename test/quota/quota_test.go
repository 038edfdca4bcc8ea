// Package quota runs the tests of sandbox/quota in a virtual machine, since few kernels that
// tests run on have project quotas for ext4.
package quota

import (
	"bytes"
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

const (
	slot  = "rw0"
	tests = "tests"                     // the container
	waits = "CRICKET_TEST_QUOTA_WAIT=1" // makes quota.test a program that only waits
)

func TestInAMachine(t *testing.T) {
	m := guesttest.Boot(t, guesttest.Config{Disks: map[string]string{"ro0": image(t), slot: disk(t)}})
	volume := agent.DirVolumes + "/quota"
	for _, a := range []agent.Mount{
		{Slot: "ro0", Target: agent.DirDisks + "/ro0", Type: "erofs", Options: []string{"ro"}},
		{Slot: slot, Target: volume, Type: "ext4", Options: []string{"prjquota"}},
		{Source: "tmpfs", Target: agent.DirVolumes + "/upper", Type: "tmpfs"},
	} {
		if err := m.Guest.Mount(t.Context(), a); err != nil {
			t.Fatal(err)
		}
	}
	start(t, m, volume)
	unlimited := process("/quota.test", "-test.v", "-test.bench=.", "-test.benchtime=300x")
	driver := process("/sandbox.test", "-test.v", "-test.run=^TestWritableLimit$")
	driver.Env = append(driver.Env, waits) // for what it starts
	bound := slices.DeleteFunc(spec.AllCapabilities(), func(name string) bool { return name == "CAP_SYS_RESOURCE" })
	driver.Capabilities = &specs.LinuxCapabilities{Bounding: bound, Effective: bound, Permitted: bound}
	for _, p := range []*specs.Process{unlimited, driver} {
		var out bytes.Buffer
		exit, err := m.Monitor.Exec(t.Context(), tests, monitor.ExecRequest{Process: *p, Timeout: 5 * time.Minute}, runtime.Streams{Stdout: &out, Stderr: &out})
		if err != nil || exit.Code != 0 || !strings.HasSuffix(out.String(), "PASS\n") || strings.Contains(out.String(), "--- SKIP") {
			t.Errorf("%s: %+v, %v", p.Args[0], exit, err)
		}
		t.Log(out.String())
	}
}

// image has the tests.
func image(t *testing.T) string {
	t.Helper()
	dir, file := t.TempDir(), filepath.Join(t.TempDir(), "image")
	for _, d := range []string{"proc", "dev", "sys", "tmp", "quota", "etc"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, pkg := range map[string]string{"quota.test": "sandbox/quota", "sandbox.test": "sandbox"} {
		build := exec.Command("go", "test", "-vet=off", "-c", "-ldflags=-s -w", "-o", filepath.Join(dir, name), "github.com/cricket-cri/cricket/"+pkg)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		run(t, build)
	}
	// What holds namespaces in the driver's tests only has to be there.
	if err := os.Link(filepath.Join(dir, "quota.test"), filepath.Join(dir, "sleep")); err != nil {
		t.Fatal(err)
	}
	run(t, exec.Command("mkfs.erofs", "--quiet", file, dir))
	return file
}

// disk is an ext4 with project quotas.
func disk(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "disk")
	run(t, exec.Command("truncate", "-s", "128M", file))
	run(t, exec.Command("mkfs.ext4", "-q", "-O", "quota,project", "-E", "quotatype=prjquota", file))
	return file
}

func run(t *testing.T, c *exec.Cmd) {
	t.Helper()
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", c, err, out)
	}
}

func process(args ...string) *specs.Process {
	all := spec.AllCapabilities()
	return &specs.Process{
		Args: args, Cwd: "/", Env: []string{"PATH=/", "CRICKET_TEST_QUOTA_DIR=/quota"},
		Capabilities: &specs.LinuxCapabilities{Bounding: all, Effective: all, Permitted: all},
	}
}

// start starts a container that does nothing and has the disk, to run the tests in.
func start(t *testing.T, m *guesttest.Machine, volume string) {
	t.Helper()
	upper := agent.DirVolumes + "/upper"
	err := m.Guest.Put(t.Context(), []agent.File{{Path: upper + "/upper", Mode: unix.S_IFDIR | 0o755}, {Path: upper + "/work", Mode: unix.S_IFDIR | 0o755}})
	if err != nil {
		t.Fatal(err)
	}
	s := &specs.Spec{
		Version: spec.Version, Root: &specs.Root{Path: "rootfs"}, Process: process("/quota.test"),
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"}, {Destination: "/dev", Type: "bind", Source: "/dev", Options: []string{"rbind"}},
			{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs"}, {Destination: "/sys", Type: "sysfs", Source: "sysfs"},
			{Destination: "/sys/fs/cgroup", Type: "bind", Source: "/sys/fs/cgroup", Options: []string{"rbind"}},
			{Destination: "/quota", Type: "bind", Source: volume, Options: []string{"bind"}},
		},
		Linux: &specs.Linux{CgroupsPath: agent.PodCgroup + "/" + tests, Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.NetworkNamespace}}},
	}
	s.Process.Env = append(s.Process.Env, waits)
	_, err = m.Monitor.Create(t.Context(), monitor.CreateRequest{
		ID: tests, Bundle: agent.DirContainers + "/" + tests, Spec: s, LogPath: agent.DirLogs + "/" + tests, Cgroup: agent.PodCgroup + "/" + tests,
		Rootfs: monitor.Overlay{Target: "rootfs", Lower: []string{agent.DirDisks + "/ro0"}, Upper: upper + "/upper", Work: upper + "/work"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Monitor.Start(t.Context(), tests); err != nil {
		t.Fatal(err)
	}
}
