// Package monitortest starts monitors for tests of what runs below them.
package monitortest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/cricket-cri/cricket/runtime/monitor"
)

const program = "github.com/cricket-cri/cricket/cmd/cricket-monitor"

// Run starts a monitor of the test's own and returns its program and a client.
func Run(t testing.TB) (binary string, client *monitor.Client) {
	t.Helper()
	o := Options(t)
	Start(t, o)
	return o.Binary, monitor.NewClient(monitor.DialUnix(o.Socket))
}

// Options are those of a monitor whose program is built for the test.
func Options(t testing.TB) monitor.StartOptions {
	t.Helper()
	dir := ShortDir(t)
	o := monitor.StartOptions{
		Binary: filepath.Join(dir, "cricket-monitor"), Socket: filepath.Join(dir, "socket"),
		State: filepath.Join(dir, "state"), LogFile: filepath.Join(dir, "log"),
	}
	build := exec.Command("go", "build", "-o", o.Binary, program)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build monitor: %v\n%s", err, out)
	}
	return o
}

// Start starts a monitor until the test ends, and returns its process id. The log of a test
// that fails has the monitor's.
func Start(t testing.TB, o monitor.StartOptions) int {
	t.Helper()
	info, err := monitor.Start(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			b, _ := os.ReadFile(o.LogFile)
			t.Logf("the monitor's log:\n%s", b)
		}
		// Start's child is reaped by Start.
		_ = syscall.Kill(info.Pid, syscall.SIGTERM)
	})
	return info.Pid
}

// ShortDir is a directory of the test's whose name leaves room for those of sockets, which
// are at most 107 bytes long (unix(7)).
func ShortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "cq")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
