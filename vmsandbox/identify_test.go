package vmsandbox

import (
	"testing"
	"time"
)

// TestClockIsSetAgain: a guest that had to wait for the time is told it again, and one that
// never has the right one is a pod all the same.
func TestClockIsSetAgain(t *testing.T) {
	for lag, attempts := range map[time.Duration]int{0: 1, 6 * maxLag: 3, time.Hour: identifyMax} {
		w := newWorld(t)
		w.lag = lag
		running(t, w, podConfig(t))
		n := 0
		for _, call := range w.calls {
			if call == "identify host1" {
				n++
			}
		}
		if n < attempts || n > identifyMax { // more often if this test itself had to wait
			t.Errorf("a guest whose clock is %v late is told the time %d times, not %d", lag, n, attempts)
		}
	}
}
