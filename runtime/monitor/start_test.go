package monitor

import (
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestStartWaitsForTheLock starts a monitor while another, which does not answer, still
// holds the socket's lock.
func TestStartWaitsForTheLock(t *testing.T) {
	dir := t.TempDir()
	o := StartOptions{Binary: programs.monitor, Socket: filepath.Join(dir, "s"), State: filepath.Join(dir, "state")}
	lock, err := lockFile(o.Socket+".lock", unix.LOCK_EX)
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(200*time.Millisecond, func() { lock.Close() })
	info, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(info.Pid, unix.SIGKILL); err != nil {
		t.Error(err)
	}
}
