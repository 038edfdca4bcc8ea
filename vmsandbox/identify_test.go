package vmsandbox

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestClockIsStepped: a guest that had to wait for the time is put right, however slow its
// answers are at first, and one that never answers fast enough is a pod all the same.
func TestClockIsStepped(t *testing.T) {
	for name, tc := range map[string]struct {
		lag, way time.Duration
		steps    int
	}{
		"right":      {0, maxLag / 2, 0},
		"late":       {maxLag + 1, 0, 1},
		"far behind": {50 * 365 * 24 * time.Hour, 0, 1},
		"ahead":      {-time.Hour, maxLag, 1},
		// A clock is known to the length of the way; the last step leads to its middle.
		"slow answers": {time.Second, 16 * maxLag, 4},
		"no end of it": {time.Second, 1000 * maxLag, maxSteps},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				g := &fakeGuest{w: w, lag: tc.lag, way: tc.way}
				var log bytes.Buffer
				p := &pod{machine: &Machine{Guest: g}, driver: &Driver{opts: Options{Log: slog.New(slog.NewTextHandler(&log, nil))}}}
				if _, err := p.identify(t.Context()); err != nil {
					t.Fatal(err)
				}
				if told := strings.Count(strings.Join(w.calls, "\n"), "step"); told != tc.steps {
					t.Errorf("%d steps, not %d", told, tc.steps)
				}
				if right := g.lag.Abs() <= maxLag; right != (tc.steps < maxSteps) {
					t.Errorf("the clock is %v behind", g.lag)
				}
				if warned := strings.Contains(log.String(), "may be off"); warned != (tc.steps == maxSteps) {
					t.Errorf("log: %s", log.String())
				}
			})
		})
	}
}

// TestClockErrorOfSetClock: what was known of a clock is worth nothing once one of them has
// been set.
func TestClockErrorOfSetClock(t *testing.T) {
	e, now := unknownClock(), time.Now()
	e.learn(now, now.Add(time.Millisecond), now.UnixNano())
	if e.most() > time.Millisecond {
		t.Errorf("%+v", e)
	}
	e.learn(now, now.Add(time.Second), now.Add(time.Hour).UnixNano())
	if e.least != time.Hour-time.Second || e.greatest != time.Hour {
		t.Errorf("%+v", e)
	}
}
