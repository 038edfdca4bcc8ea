package template

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cricket-cri/cricket/vmsandbox/vmm"
)

// Disking makes the disks that a machine with that id goes on with, by their slots. What it
// has made of Options.Disks when it fails is removed.
type Disking func(ctx context.Context, machine string) (map[string]vmm.Disk, error)

// Restore returns a machine that goes on from a state that is whole (vmm.Snapshotter), is
// reached and runs. It is the caller's until Remove.
func (p *Pool) Restore(ctx context.Context, state *os.File, disks Disking) (*VM, error) {
	p.mu.Lock()
	closed := p.closed
	p.mu.Unlock()
	if closed || p.options.Disks == nil {
		return nil, fmt.Errorf("restore machine: no machines any more, or none with disks: %w", errdefs.ErrUnavailable)
	}
	b := p.newBirth(p.options.Boot)
	b.config.State, b.config.Whole, b.disks = state, true, disks
	return b.run(ctx, "restore machine", Restored)
}

// resumeInterval is between two attempts to resume a machine: one that is still writing a
// state for a daemon that is gone refuses.
const resumeInterval = 100 * time.Millisecond

// resume lets a machine run that the daemon before may have paused, to save it. One that
// runs runs on.
func resume(ctx context.Context, m vmm.Machine) error {
	for {
		err := m.Resume(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-m.Done():
			return err
		case <-ctx.Done():
			return err
		case <-time.After(resumeInterval):
		}
	}
}
