package main

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	systemd "github.com/coreos/go-systemd/v22/daemon"
)

// build returns a directory with the program.
func build(t *testing.T) (dir, program string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "monitor-") // a socket's path has to be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	program = filepath.Join(dir, "cricket-monitor")
	c := exec.Command("go", "build", "-o", program, ".")
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return dir, program
}

// systemd learns when the monitor answers, at its start and after an upgrade in place.
func TestSystemdIsNotified(t *testing.T) {
	dir, program := build(t)
	told, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer told.Close()
	want := func(when, state string) {
		t.Helper()
		if err := told.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 256)
		n, err := told.Read(b)
		if err != nil || string(b[:n]) != state {
			t.Fatalf("%s systemd was told %q, %v, want %q", when, b[:n], err, state)
		}
	}
	socket := filepath.Join(dir, "socket")
	monitor := exec.Command(program, "--socket", socket, "--state", filepath.Join(dir, "state"), "--log-level", "error")
	monitor.Env = append(os.Environ(), "NOTIFY_SOCKET="+filepath.Join(dir, "notify"))
	monitor.Stderr = os.Stderr
	if err := monitor.Start(); err != nil {
		t.Fatal(err)
	}
	ended := false
	defer func() {
		if !ended {
			_ = monitor.Process.Kill()
			_ = monitor.Wait()
		}
	}()
	answers := func(when string) {
		t.Helper()
		conn, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatalf("%s the monitor does not answer: %v", when, err)
		}
		conn.Close()
	}
	want("at the start", systemd.SdNotifyReady)
	answers("at the start")
	for range 2 {
		if err := monitor.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		want("before an upgrade", systemd.SdNotifyReloading)
		want("after an upgrade", systemd.SdNotifyReady)
		answers("after an upgrade")
	}
	if err := monitor.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	ended = true
	if err := monitor.Wait(); err != nil {
		t.Errorf("the monitor ended with %v", err)
	}
}
