package vmsandbox

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/spec"
	"github.com/cricket-cri/cricket/vmsandbox/vmm"
)

const (
	// memoryStep is what machines grow by.
	memoryStep = 128 << 20
	// guestReserve is memory that the guest needs for itself beside its containers.
	guestReserve = 64 << 20
)

// growFor gives the machine memory if the limits of its containers, with that of one
// changed to r's, are more than it has. Limits beyond what a machine can have are a bound
// as good as any: the container gets what there is.
func (p *pod) growFor(ctx context.Context, id string, r *runtime.Resources) error {
	if r == nil || r.MemoryLimit <= 0 {
		return nil
	}
	// Who grows at the same time has to find this limit in the record, or be found in it.
	release, err := p.holdDisks(ctx)
	if err != nil {
		return err
	}
	defer release()
	others, err := p.limitsBeside(id)
	if err != nil {
		return err
	}
	if err := p.grow(ctx, add(others, r.MemoryLimit)); err != nil {
		return err
	}
	return p.container(id).note(func(record *containerRecord) { record.Memory = r.MemoryLimit })
}

// limitsBeside are the limits of all containers but one together, in bytes.
func (p *pod) limitsBeside(id string) (sum int64, err error) {
	ids, err := p.containerIDs()
	if err != nil {
		return 0, err
	}
	for _, other := range ids {
		record := p.container(other).record()
		if other != id && !record.exited() && record.Memory > 0 {
			sum = add(sum, record.Memory)
		}
	}
	return sum, nil
}

// add is the sum of two limits: who has none may say so by the largest number there is.
func add(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

// grow makes room for containers with limits of so many bytes together. The caller holds
// disks.
func (p *pod) grow(ctx context.Context, limits int64) error {
	s := p.snapshot()
	has := int64(s.Guest.MemoryBytes) + s.Added
	most := int64(p.driver.opts.MaxMemoryMiB) << 20
	want := min(limits, most-guestReserve) + guestReserve
	if want <= has {
		return p.online(ctx)
	}
	step := memoryToAdd(has, want, most, len(s.Pieces))
	if step <= 0 {
		return p.online(ctx)
	}
	err := p.machine.AddMemory(ctx, step)
	if errdefs.IsResourceExhausted(err) {
		p.driver.opts.Log.Warn("machine takes no more memory than it has", "sandbox", p.id, "wanted", want, "error", err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("add memory: %w", err)
	}
	// What was added stays added, also if the guest does not take it.
	err = p.change(func(s *podState) {
		s.Added, s.Pieces, s.Offline = s.Added+step, append(slices.Clone(s.Pieces), step), true
	})
	if err != nil {
		return err
	}
	return p.online(ctx)
}

// online has the guest take memory into use that it was given, by whoever that was.
func (p *pod) online(ctx context.Context) error {
	s := p.snapshot()
	if !s.Offline {
		return nil
	}
	if err := p.machine.Guest.Online(ctx, s.Added); err != nil {
		return fmt.Errorf("take memory into use: %w", err)
	}
	return p.change(func(s *podState) { s.Offline = false })
}

// memoryToAdd is how many bytes a machine that has some is to get, in whole steps: what it
// wants and, when half of the pieces in which it can grow are used up, a quarter of what it
// has at least, so that the others last.
func memoryToAdd(has, want, most int64, pieces int) int64 {
	add := want - has
	if pieces >= vmm.MemoryPieces/2 {
		add = max(add, has/4)
	}
	add = (add + memoryStep - 1) / memoryStep * memoryStep
	return min(add, (most-has)/memoryStep*memoryStep)
}

// growTo makes room for a limit of all containers together.
func (p *pod) growTo(ctx context.Context, limit int64) error {
	release, err := p.holdDisks(ctx)
	if err != nil {
		return err
	}
	defer release()
	return p.grow(ctx, limit)
}

// Update changes the limits of all containers together, in the guest, and of the machine
// on the host where its cgroup is the driver's own. The overhead is the machine's alone.
func (p *pod) Update(ctx context.Context, r, overhead *runtime.Resources) error {
	if p.config().CgroupParent != "" || p.driver.opts.SystemdCgroup {
		return p.limitGuest(ctx, r)
	}
	has := p.snapshot().Config
	want := has
	want.Relimit(r, overhead)
	steps := []func() error{
		func() error { return p.limitGuest(ctx, r) },
		func() error { return p.limitHost(want.Limits()) },
	}
	// A guest that is to be held back less cannot answer before it is.
	if processors(want.Limits()) > processors(has.Limits()) {
		slices.Reverse(steps)
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return p.change(func(s *podState) { s.Config.Relimit(r, overhead) })
}

// processors is how many r lets be used, infinitely many where it says nothing.
func processors(r *runtime.Resources) float64 {
	if r == nil || r.CPUQuota <= 0 || r.CPUPeriod <= 0 {
		return math.Inf(1)
	}
	return float64(r.CPUQuota) / float64(r.CPUPeriod)
}

func (p *pod) limitGuest(ctx context.Context, r *runtime.Resources) error {
	if r == nil {
		return nil
	}
	return p.guest(ctx, longBudget, func(ctx context.Context) error {
		if r.MemoryLimit > 0 {
			if err := p.growTo(ctx, r.MemoryLimit); err != nil {
				return err
			}
		}
		return p.machine.Guest.Limit(ctx, spec.Resources(inGuest(r), true))
	})
}
