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
// caller's until Remove. It has the time that ctx has, or that of a boot.
func (p *Pool) Restore(ctx context.Context, s Saved) (*VM, error) {
	p.mu.Lock()
	closed := p.closed
	p.mu.Unlock()
	if closed || p.options.Disks == nil {
		return nil, fmt.Errorf("restore machine: no machines any more, or none with disks: %w", errdefs.ErrUnavailable)
	}
	// How long it takes depends on how much there is to read, which whoever asks may know.
	limit := p.options.Boot
	if deadline, ok := ctx.Deadline(); ok {
		limit = time.Until(deadline)
	}
	b := p.newBirth(limit)
	b.config.State, b.config.Whole, b.config.Added, b.saved = s.State, true, s.Added, &s
	return b.run(ctx, "restore machine", Restored)
}
