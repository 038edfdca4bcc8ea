package template

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cricket-cri/cricket/runtime/flow"
	"github.com/cricket-cri/cricket/vmsandbox/disk"
	"github.com/cricket-cri/cricket/vmsandbox/vmm"
)

// Disks makes writable disks; *disk.Store is one.
type Disks interface {
	// Take makes a disk for a machine and returns its path.
	Take(ctx context.Context, owner, name string) (path string, err error)
	// Read remembers what a disk is, Copy makes another like it.
	Read(owner, name string) (*disk.Pattern, error)
	Copy(owner, name string, p *disk.Pattern) (path string, err error)
	// Remove removes disks of a machine; without names all of them.
	Remove(owner string, names ...string) error
	// Owners lists the machines that have disks.
	Owners() ([]string, error)
}

// Options of a Pool.
type Options struct {
	Hypervisor vmm.Hypervisor
	// Dir holds a directory for each machine. It should be on a tmpfs.
	Dir   string
	Shape vmm.Shape
	// Size is how many parked machines there should be; with 0 every Claim waits for a
	// clone.
	Size int
	// Unshared machines are booted, not cloned: they share no memory with others.
	Unshared bool
	// Warm does in a machine that runs what pods will do, and undoes it. It is called for
	// the template and for machines to be parked. May be nil.
	Warm func(ctx context.Context, vm *VM) error
	// Tap makes a network namespace pinned at a path and a tap device in it; nil leaves
	// machines without a network. Release undoes it and is idempotent.
	Tap     func(netns string) (*os.File, error)
	Release func(netns string) error
	// Disks may be nil: then machines have no writable disk.
	Disks Disks
	// Cgroup is where machines are until they are claimed, see vmm.Config.
	Cgroup string
	// Boot bounds a cold boot, Clone the time from a clone's start to its first answer, Life
	// what Warm may take. The defaults are a minute, 20 seconds and 30.
	Boot, Clone, Life time.Duration
	// Trace opens spans of what the pool makes for its stock; may be nil. What is made for a
	// claim is traced by the claim's context.
	Trace flow.Tracer
	Log   *slog.Logger
}

func (o Options) withDefaults() (Options, error) {
	if o.Hypervisor == nil || o.Dir == "" || o.Size < 0 || o.Shape.MemoryMiB <= 0 {
		return o, fmt.Errorf("configure machines: hypervisor, directory or shape missing, or negative size: %w", errdefs.ErrInvalidArgument)
	}
	if (o.Tap == nil) != (o.Release == nil) {
		return o, fmt.Errorf("configure machines: tap devices are made but not released: %w", errdefs.ErrInvalidArgument)
	}
	for _, d := range []struct {
		value    *time.Duration
		fallback time.Duration
	}{{&o.Boot, time.Minute}, {&o.Clone, 20 * time.Second}, {&o.Life, 30 * time.Second}} {
		if *d.value <= 0 {
			*d.value = d.fallback
		}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o, nil
}
