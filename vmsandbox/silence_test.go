package vmsandbox

import (
	"os/exec"
	"testing"
	"time"
)

// lookAt looks at a process for a second.
func lookAt(t *testing.T, name string, args ...string) *quiet {
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
		q.look(time.Now())
	}
	return q
}

func TestSilence(t *testing.T) {
	if q := lookAt(t, "sleep", "100"); q.idle < 500*time.Millisecond || q.busy() > 100*time.Millisecond {
		t.Errorf("a process that sleeps was idle for %s of a second, and busy for %s", q.idle, q.busy())
	}
	if q := lookAt(t, "sh", "-c", "while :; do :; done"); q.idle > 100*time.Millisecond || q.busy() == 0 {
		t.Errorf("a process that computes was idle for %s of a second, and busy for %s", q.idle, q.busy())
	}
	// A watcher that is starved itself has seen nothing.
	q := newSilence(1)
	if q.look(time.Now().Add(time.Minute)); q.idle > 0 {
		t.Errorf("idle for %s while nobody looked", q.idle)
	}
}

// A machine that is held back is busy for as long as it could compute, and one with many
// processors for as long as the clock says.
func TestBusy(t *testing.T) {
	began := time.Now()
	for _, c := range []struct{ passed, used, want time.Duration }{
		{time.Minute, 3 * time.Second, 3 * time.Second},
		{time.Minute, 4 * time.Minute, time.Minute},
	} {
		q := &quiet{began: began, last: began.Add(c.passed), first: demand{used: time.Hour}, then: demand{used: time.Hour + c.used, waited: time.Hour}}
		if got := q.busy(); got != c.want {
			t.Errorf("after %s with %s of processor time: busy for %s, want %s", c.passed, c.used, got, c.want)
		}
	}
}
