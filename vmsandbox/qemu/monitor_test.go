package qemu

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/cricket-cri/cricket/runtime/monitor"
)

// realMonitor builds cricket-monitor, starts it and returns its program and a client.
func realMonitor(t testing.TB) (program string, client *monitor.Client) {
	t.Helper()
	o := monitorOptions(t)
	startMonitor(t, o)
	return o.Binary, monitor.NewClient(monitor.DialUnix(o.Socket))
}

func monitorOptions(t testing.TB) monitor.StartOptions {
	t.Helper()
	dir := shortDir(t)
	o := monitor.StartOptions{
		Binary: filepath.Join(dir, "cricket-monitor"), Socket: filepath.Join(dir, "socket"),
		State: filepath.Join(dir, "state"), LogFile: filepath.Join(dir, "log"),
	}
	build := exec.Command("go", "build", "-o", o.Binary, "../../cmd/cricket-monitor")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build monitor: %v\n%s", err, out)
	}
	return o
}

// startMonitor returns the process id.
func startMonitor(t testing.TB, o monitor.StartOptions) int {
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
