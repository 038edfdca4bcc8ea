package vmsandbox

import (
	"context"
	"fmt"
	"time"

	"github.com/cricket-cri/cricket/vmsandbox/agent"
)

// A guest's clock is set by a message, which takes its time on a busy host, and never more
// than maxLag if another attempt can help.
const (
	maxLag      = 25 * time.Millisecond
	identifyMax = 4
)

// identify makes the guest one of its own, and sees to it that it has the time: it is told
// again if what it answers leaves a doubt.
func (p *pod) identify(ctx context.Context) (info agent.Info, err error) {
	for range identifyMax {
		id, err := newIdentity(p.config())
		if err != nil {
			return info, err
		}
		if err := p.machine.Guest.Identify(ctx, id); err != nil {
			return info, fmt.Errorf("identify guest: %w", err)
		}
		before := time.Now()
		if info, err = p.machine.Guest.Hello(ctx); err != nil {
			return info, fmt.Errorf("ask guest: %w", err)
		}
		// It read its clock somewhere in between.
		after, clock := time.Now(), time.Unix(0, info.UnixNanos)
		if after.Sub(clock) <= maxLag && clock.Sub(before) <= maxLag {
			return info, nil
		}
	}
	p.driver.opts.Log.Warn("clock of guest may be off", "sandbox", p.id, "more than", maxLag)
	return info, nil
}
