package monitor

import (
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestReleaseAtOnce: whoever releases a holder while another call does is told so when it
// is gone, and not that it cannot be ended.
func TestReleaseAtOnce(t *testing.T) {
	sleeper := exec.Command("sleep", "3600")
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	st, err := readProc(sleeper.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	pidfd, err := openProcess(sleeper.Process.Pid, st.start)
	if err != nil {
		t.Fatal(err)
	}
	ended, settled := make(chan status, 1), make(chan struct{})
	close(settled)
	s := bareServer()
	s.shelf.dir = t.TempDir()
	s.holds["pod"] = &held{pidfd: pidfd, ended: ended, settled: settled}
	results := make(chan error, 3)
	for range cap(results) {
		go func() { results <- s.release("pod") }()
	}
	_ = sleeper.Wait()                 // killed by one of them
	time.Sleep(100 * time.Millisecond) // so that all of them wait for the end
	ended <- status{code: 128 + int32(unix.SIGKILL), at: time.Now()}
	for range cap(results) {
		select {
		case err := <-results:
			if err != nil {
				t.Errorf("release = %v", err)
			}
		case <-time.After(killTime / 2):
			t.Fatal("a release waits for what is gone")
		}
	}
}
