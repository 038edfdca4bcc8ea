package vmsandbox

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/cricket-cri/cricket/vmsandbox/agent"
)

// A guest's clock is set by a message, which takes its time on a busy host, and never more
// than maxLag if one of maxSteps can help.
const (
	maxLag   = 25 * time.Millisecond
	maxSteps = 8
)

// identify makes the guest one of its own, and sees to it that it has the time.
func (p *pod) identify(ctx context.Context) (info agent.Info, err error) {
	id, err := newIdentity(p.config())
	if err != nil {
		return info, err
	}
	if err := p.machine.Guest.Identify(ctx, id); err != nil {
		return info, fmt.Errorf("identify guest: %w", err)
	}
	e := unknownClock()
	before := time.Now()
	if info, err = p.machine.Guest.Hello(ctx); err != nil {
		return info, fmt.Errorf("ask guest: %w", err)
	}
	e.learn(before, time.Now(), info.UnixNanos)
	return info, p.stepClock(ctx, e)
}

// stepClock corrects a clock of which it is not certain that it is right. Steps do not depend
// on how long they are on their way, so that every answer that comes quicker helps.
func (p *pod) stepClock(ctx context.Context, e clockError) error {
	for range maxSteps {
		if e.most() <= maxLag {
			return nil
		}
		by := -e.middle()
		before := time.Now()
		nanos, err := p.machine.Guest.Step(ctx, by)
		if err != nil {
			return fmt.Errorf("step clock of guest: %w", err)
		}
		e.stepped(by)
		e.learn(before, time.Now(), nanos)
	}
	if most := e.most(); most > maxLag {
		p.driver.opts.Log.Warn("clock of guest may be off", "sandbox", p.id, "by", most)
	}
	return nil
}

// clockError is by how much a guest's clock is ahead of the host's, at least and at most.
type clockError struct{ least, greatest time.Duration }

func unknownClock() clockError { return clockError{math.MinInt64, math.MaxInt64} }

// learn takes in what a guest's clock said, in nanoseconds since 1970, at some moment
// between before and after.
func (e *clockError) learn(before, after time.Time, nanos int64) {
	clock := time.Unix(0, nanos)
	now := clockError{clock.Sub(after), clock.Sub(before)}
	both := clockError{max(e.least, now.least), min(e.greatest, now.greatest)}
	if both.least > both.greatest {
		both = now // one of the clocks was set meanwhile
	}
	*e = both
}

// stepped takes in that the guest's clock was moved.
func (e *clockError) stepped(by time.Duration) {
	e.least, e.greatest = e.least+by, e.greatest+by
}

// middle is the best guess.
func (e clockError) middle() time.Duration { return e.least + (e.greatest-e.least)/2 }

// most is the largest error that there can be.
func (e clockError) most() time.Duration { return max(e.least.Abs(), e.greatest.Abs()) }
