package cni

import (
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestEndOrphansWaits(t *testing.T) {
	start := func(id string) (*exec.Cmd, chan error) {
		c := exec.Command("sleep", "0.3")
		c.Env = append(os.Environ(), "CNI_CONTAINERID="+id)
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- c.Wait() }()
		return c, ended
	}
	own, ended := start("orphans-test")
	other, otherEnded := start("orphans-test-other")
	began := time.Now()
	if err := endOrphans(t.Context(), "orphans-test"); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < 200*time.Millisecond {
		t.Errorf("it waited for %s only", took)
	}
	if err := unix.Kill(own.Process.Pid, 0); err == nil {
		<-ended // a zombie until its parent has waited
	}
	_ = other.Process.Kill()
	<-otherEnded
}

// TestEndOrphansOfOrphans: what a plugin starts while it is waited for is waited for, too.
func TestEndOrphansOfOrphans(t *testing.T) {
	c := exec.Command("bash", "-c", "sleep 0.3; sleep 0.7 & exit 0")
	c.Env = append(os.Environ(), "CNI_CONTAINERID=orphans-test-late")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	began := time.Now()
	if err := endOrphans(t.Context(), "orphans-test-late"); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < 900*time.Millisecond {
		t.Errorf("it waited for %s only", took)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
