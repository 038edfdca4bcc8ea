package template

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/cricket-cri/cricket/runtime/flow"
	"github.com/cricket-cri/cricket/vmsandbox/agent"
	"github.com/cricket-cri/cricket/vmsandbox/vmm"
)

// firstDisk is the slot of the disk that a machine has from its start.
const firstDisk = "rw0"

// birth is a machine on its way.
type birth struct {
	pool   *Pool
	config vmm.Config
	limit  time.Duration // up to the first answer
	own    belongings
	vm     *VM
	// machine is nil before it was started.
	machine vmm.Machine
	// from is the template of a clone.
	from *image
	// saved is what a machine of its own goes on from; nil for others.
	saved *Saved
	// low lets it run with low priority.
	low  bool
	nice int
	// begun is told of the machine as soon as it runs; may be nil.
	begun func(vmm.Machine, int)
}

func (p *Pool) newBirth(limit time.Duration) *birth {
	id := newID()
	own := p.belongings(id)
	return &birth{
		pool: p, limit: limit, own: own,
		config: vmm.Config{
			ID: id, Shape: p.options.Shape, Volumes: own.volumes, Cgroup: p.options.Cgroup, Deadline: limit,
			Disks: map[string]vmm.Disk{},
		},
	}
}

// patience is how long something may take that has low priority or not: on a busy node
// everybody else comes first.
func patience(limit time.Duration, low bool) time.Duration {
	if low {
		return 4 * limit
	}
	return limit
}

// clone makes a machine from a template.
func (p *Pool) clone(ctx context.Context, img *image, low bool, begun func(vmm.Machine, int)) (*VM, error) {
	state, err := img.openState()
	if err != nil {
		return nil, err
	}
	defer state.Close()
	b := p.newBirth(patience(p.options.Clone, low))
	b.config.State, b.config.Memory, b.from, b.low, b.begun = state, vmm.Memory{File: img.memory}, img, low, begun
	return b.run(ctx, "clone machine", Cloned)
}

// boot makes a machine without a template.
func (p *Pool) boot(ctx context.Context, low bool, begun func(vmm.Machine, int)) (*VM, error) {
	b := p.newBirth(patience(p.options.Boot, low))
	b.low, b.begun = low, begun
	return b.run(ctx, "boot machine", Booted)
}

func (b *birth) run(ctx context.Context, name string, origin Origin) (*VM, error) {
	ctx, cancel := context.WithTimeout(ctx, b.limit)
	defer cancel()
	if err := flow.Run(ctx, name, b.steps()...); err != nil {
		b.pool.leave(b.config.ID) // if it was not undone
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	b.vm.Origin = origin
	return b.vm, nil
}

// steps make the machine, and end with its disk mounted.
func (b *birth) steps() []flow.Step {
	p, id := b.pool, b.config.ID
	steps := []flow.Step{{
		Name: "prepare directories", Do: b.prepare, Undo: func(context.Context) error { return p.removeBelongings(id) },
	}}
	if p.options.Disks != nil {
		steps = append(steps, flow.Step{
			Name: "make disk", Do: b.takeDisk, Undo: func(context.Context) error { return p.options.Disks.Remove(id) },
		})
	}
	steps = append(steps,
		flow.Step{
			Name: "start machine", Do: b.start,
			Undo: func(ctx context.Context) error {
				return errors.Join(b.machine.Close(), p.options.Hypervisor.Remove(ctx, id))
			},
		},
		flow.Step{Name: "reach guest", Do: b.reach, Undo: func(context.Context) error { return b.vm.Session.Close() }})
	if p.options.Disks != nil && b.from == nil && b.saved == nil {
		steps = append(steps, flow.Step{Name: "mount disk", Do: b.mountDisk})
	}
	return steps
}

func (b *birth) prepare(context.Context) error {
	if err := os.Mkdir(b.own.dir, 0o711); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	if err := os.Mkdir(b.own.volumes, 0o755); err != nil {
		return errors.Join(fmt.Errorf("make directory of volumes: %w", err), os.Remove(b.own.dir))
	}
	return nil
}

func (b *birth) takeDisk(ctx context.Context) (err error) {
	if b.saved != nil {
		b.config.Disks, err = b.saved.Disks(ctx, b.config.ID)
		return err
	}
	var path string
	if b.from != nil {
		path, err = b.pool.options.Disks.Copy(b.config.ID, firstDisk, b.from.disk)
	} else {
		path, err = b.pool.options.Disks.Take(ctx, b.config.ID, firstDisk)
	}
	if err != nil {
		return err
	}
	b.config.Disks[firstDisk] = vmm.Disk{Files: []string{path}, Volatile: true}
	return nil
}

func (b *birth) start(ctx context.Context) error {
	o := b.pool.options
	if o.Tap != nil {
		tap, err := o.Tap(b.own.netns)
		if err != nil {
			return fmt.Errorf("make tap device: %w", err)
		}
		defer tap.Close() // the machine has a duplicate
		b.config.Tap = tap
	}
	m, err := o.Hypervisor.Start(ctx, b.config)
	if err != nil {
		return err // what Tap made goes with the directories
	}
	b.machine = m
	if b.low {
		b.nice = lower(m.Pid())
	}
	if b.begun != nil {
		b.begun(m, b.nice)
	}
	return nil
}

func (b *birth) reach(ctx context.Context) (err error) {
	if b.config.State != nil {
		if err := b.machine.Resume(ctx); err != nil {
			return fmt.Errorf("resume: %w", err)
		}
	}
	if b.vm, err = reach(ctx, b.machine); err != nil {
		return err
	}
	if b.from != nil {
		b.vm.Info, b.vm.Mounted = b.from.info, b.mounted()
	} else if err := b.vm.introduce(ctx); err != nil {
		return errors.Join(err, b.vm.Session.Close())
	}
	b.vm.NetNS, b.vm.Volumes = b.own.netns, b.own.volumes
	if b.pool.options.Tap == nil {
		b.vm.NetNS = ""
	}
	b.vm.low, b.vm.nice = b.low, b.nice
	return nil
}

// mounted are the disks that a clone has had mounted all its life.
func (b *birth) mounted() []string {
	if b.from.disk == nil {
		return nil
	}
	return []string{firstDisk}
}

func (b *birth) mountDisk(ctx context.Context) error {
	err := b.vm.Guest.Mount(ctx, agent.Mount{
		Slot: firstDisk, Target: agent.DirDisks + "/" + firstDisk, Type: "ext4", Options: []string{"noatime", "discard", "noinit_itable", "no_prefetch_block_bitmaps"},
	})
	if err == nil {
		b.vm.Mounted = []string{firstDisk}
	}
	return err
}

// live lets a machine do what pods do, so that it has been done once, and gives back the
// memory that this took.
func (p *Pool) live(ctx context.Context, vm *VM) error {
	ctx, cancel := context.WithTimeout(ctx, patience(p.options.Life, vm.low))
	defer cancel()
	if p.options.Warm != nil {
		if err := p.options.Warm(ctx, vm); err != nil {
			return err
		}
	}
	if err := vm.Guest.Sync(ctx, true); err != nil {
		return fmt.Errorf("drop caches: %w", err)
	}
	return nil
}
