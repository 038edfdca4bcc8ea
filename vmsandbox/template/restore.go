package template

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cricket-cri/cricket/vmsandbox/vmm"
)

// Saved is what a machine goes on from.
type Saved struct {
	// State is whole (vmm.Snapshotter), Added as in vmm.Config.
	State *os.File
	Added []int64
	// Disks makes the disks of the machine with that id, by their slots. What it has made of
	// Options.Disks when it fails is removed.
	Disks func(ctx context.Context, machine string) (map[string]vmm.Disk, error)
}

// Restore returns a machine that goes on from what was saved, is reached and runs. It is the
// caller's until Remove.
func (p *Pool) Restore(ctx context.Context, s Saved) (*VM, error) {
	p.mu.Lock()
	closed := p.closed
	p.mu.Unlock()
	if closed || p.options.Disks == nil {
		return nil, fmt.Errorf("restore machine: no machines any more, or none with disks: %w", errdefs.ErrUnavailable)
	}
	b := p.newBirth(p.options.Boot)
	b.config.State, b.config.Whole, b.config.Added, b.saved = s.State, true, s.Added, &s
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
