package monitor

import (
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"
)

// reapMany is set in the process that has a reaper: it takes every child, those of other
// tests too.
const reapMany = "CRICKET_TEST_REAP_MANY"

// TestClaimWhileReaping: children that start and end while the reaper is busy with others
// are told of, however long its turn has been going on.
func TestClaimWhileReaping(t *testing.T) {
	if os.Getenv(reapMany) == "" {
		c := exec.Command("/proc/self/exe", "-test.run", "^TestClaimWhileReaping$", "-test.v")
		c.Env = append(os.Environ(), reapMany+"=1")
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	r := startReaper()
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
