package monitor

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestDirectoriesOfAMonitor: everybody passes through the socket's directory, which is
// that of pods too, and nobody gets at the records.
func TestDirectoriesOfAMonitor(t *testing.T) {
	dir := t.TempDir()
	c := exec.Command("/bin/sh", "-c", `umask 022; exec "$0" --socket run/monitor.sock --state run/monitor --log-level warn`, programs.monitor)
	c.Dir, c.Stderr = dir, os.Stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = c.Process.Signal(unix.SIGTERM) // it may have ended
		_ = c.Wait()
	}()
	for deadline := time.Now().Add(20 * time.Second); !exists(filepath.Join(dir, "run/monitor.sock")); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("there is no socket")
		}
	}
	for path, want := range map[string]os.FileMode{"run": 0o711, "run/monitor": 0o700} {
		info, err := os.Stat(filepath.Join(dir, path))
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v, want %v", path, info.Mode().Perm(), err, want)
		}
	}
}
