package monitor

import (
	"io"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
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

// TestReleaseOfWhatDoesNotDie: the first process of a PID namespace does not end before all
// others there, however dead it is, and a release does not wait for that without an end.
func TestReleaseOfWhatDoesNotDie(t *testing.T) {
	first := exec.Command("sleep", "3600")
	first.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID}
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = first.Process.Kill(); _ = first.Wait() }()
	st, err := readProc(first.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	// A process in the namespace whose parent, outside, does not reap it as long as it lives.
	parent := exec.Command("nsenter", "--target", strconv.Itoa(first.Process.Pid), "--pid", "--no-fork", "sh", "-c", "sleep 3600 & exec cat")
	told, err := parent.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	ready, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { told.Close(); _ = first.Process.Kill(); _ = parent.Wait() }()
	if _, err := told.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(ready, make([]byte, 1)); err != nil { // the shell, which may reap, is no more
		t.Fatal(err)
	}
	pidfd, err := openProcess(first.Process.Pid, st.start)
	if err != nil {
		t.Fatal(err)
	}
	settled := make(chan struct{})
	close(settled)
	s := bareServer()
	s.shelf.dir = t.TempDir()
	s.holds["pod"] = &held{pidfd: pidfd, settled: settled}
	result := make(chan error, 1)
	go func() { result <- s.release("pod") }()
	select {
	case err := <-result:
		if !errdefs.IsUnavailable(err) {
			t.Errorf("release = %v", err)
		}
	case <-time.After(2 * killTime):
		t.Error("the release waits without an end")
		told.Close()
		<-result
		return
	}
	told.Close()
	if err := s.release("pod"); err != nil {
		t.Errorf("release once it can end = %v", err)
	}
}
