// Package quota runs the tests of sandbox/quota in a virtual machine, since few kernels that
// tests run on have project quotas for ext4.
package quota

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

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
		m.Mount(t, a)
	}
	nothing := process("/quota.test")
	nothing.Env = append(nothing.Env, waits)
	m.StartPrivileged(t, tests, agent.DirVolumes+"/upper", nothing,
		specs.Mount{Destination: "/quota", Type: "bind", Source: volume, Options: []string{"bind"}})
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

// image has the tests. What holds namespaces in the driver's tests only has to be there.
func image(t *testing.T) string {
	const module = "github.com/cricket-cri/cricket/"
	packages := map[string]string{"quota.test": module + "sandbox/quota", "sandbox.test": module + "sandbox"}
	return guesttest.Tests(t, packages, map[string]string{"sleep": "quota.test"}, "quota")
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
	p := guesttest.Process(args...)
	p.Env = append(p.Env, "CRICKET_TEST_QUOTA_DIR=/quota")
	return p
}
