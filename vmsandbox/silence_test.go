package vmsandbox

import (
	"os/exec"
	"testing"
	"time"
)

// idleFor looks at a process for a second.
func idleFor(t *testing.T, name string, args ...string) time.Duration {
	t.Helper()
	cmd := exec.Command(name, args...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	time.Sleep(2 * sampleInterval) // past its start
	q := newSilence(cmd.Process.Pid)
	for range 10 {
		time.Sleep(sampleInterval)
		q.idle(time.Now())
	}
	return q.sum
}

func TestSilence(t *testing.T) {
	if idle := idleFor(t, "sleep", "100"); idle < 500*time.Millisecond {
		t.Errorf("a process that sleeps was idle for %s of a second", idle)
	}
	if idle := idleFor(t, "sh", "-c", "while :; do :; done"); idle > 100*time.Millisecond {
		t.Errorf("a process that computes was idle for %s of a second", idle)
	}
	// A watcher that is starved itself has seen nothing.
	q := newSilence(1)
	if idle := q.idle(time.Now().Add(time.Minute)); idle > 0 {
		t.Errorf("idle for %s while nobody looked", idle)
	}
}
