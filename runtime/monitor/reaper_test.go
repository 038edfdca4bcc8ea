package monitor

import (
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"
)

// aloneEnv names the test that a process was started for.
const aloneEnv = "CRICKET_TEST_ALONE"

// alone runs a test that has a reaper in a process of its own, and reports whether this is
// that one: a reaper takes every child, those of other tests too.
func alone(t *testing.T) bool {
	t.Helper()
	if os.Getenv(aloneEnv) == t.Name() {
		return true
	}
	c := exec.Command("/proc/self/exe", "-test.run", "^"+t.Name()+"$", "-test.v")
	c.Env = append(os.Environ(), aloneEnv+"="+t.Name())
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return false
}

// TestClaimWhileReaping: children that start and end while the reaper is busy with others
// are told of, however long its turn has been going on.
func TestClaimWhileReaping(t *testing.T) {
	if !alone(t) {
		return
	}
	r := newReaper()
	go r.run()
	defer r.stop()
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			for range 40 {
				began := time.Now()
				pid, err := syscall.ForkExec("/bin/true", []string{"true"}, nil)
				if err != nil {
					t.Error(err)
					return
				}
				select {
				case <-r.claim(pid, began):
				case <-time.After(5 * time.Second):
					t.Error("the end of a child is lost")
					return
				}
			}
		})
	}
	all.Wait()
}
