package template

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cricket-cri/cricket/vmsandbox/tree"
)

// Attach finds a claimed machine again, after a restart of the daemon;
// errdefs.ErrNotFound if it no longer runs.
func (p *Pool) Attach(ctx context.Context, id string) (*VM, error) {
	m, err := p.options.Hypervisor.Attach(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("attach to machine: %w", err)
	}
	reaching, cancel := context.WithTimeout(ctx, p.options.Clone)
	defer cancel()
	var vm *VM
	// A daemon that is gone may have paused it, to save it. One that runs runs on.
	if err = m.Resume(reaching); err == nil {
		vm, err = reach(reaching, m)
	}
	if err == nil {
		if err = vm.introduce(reaching); err != nil {
			err = errors.Join(err, vm.Session.Close())
		}
	}
	if err != nil {
		select {
		case <-m.Done(): // it has died meanwhile
			err = fmt.Errorf("%w: %w", errdefs.ErrNotFound, err)
		default:
		}
		return nil, errors.Join(fmt.Errorf("attach to machine: %w", err), m.Close())
	}
	own := p.belongings(id)
	vm.Volumes, vm.Origin = own.volumes, Attached
	if p.options.Tap != nil {
		vm.NetNS = own.netns
	}
	return vm, nil
}

// Remove kills a machine and removes all that it has on the host. It is idempotent. What
// is mounted into the machine's volumes is unmounted and not touched.
func (p *Pool) Remove(ctx context.Context, id string) error {
	if id == "" || filepath.Base(id) != id || id[0] == '.' {
		return fmt.Errorf("remove machine %q: %w", id, errdefs.ErrInvalidArgument)
	}
	// While it lives it uses the rest.
	if err := p.options.Hypervisor.Remove(ctx, id); err != nil {
		return fmt.Errorf("remove machine: %w", err)
	}
	err := p.removeBelongings(id)
	if p.options.Disks != nil {
		err = errors.Join(err, p.options.Disks.Remove(id))
	}
	if err != nil {
		return fmt.Errorf("remove machine: %w", err)
	}
	return nil
}

// discard removes a machine that nobody has claimed.
func (p *Pool) discard(ctx context.Context, vm *VM) error {
	// The guest's last words would be waited for.
	err := p.Remove(ctx, vm.Machine.ID())
	_ = vm.Close() // it is gone
	return err
}

// remove is discard where nobody can be told of an error: it is tried again.
func (p *Pool) remove(vm *VM) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(p.ctx), p.options.Clone)
	defer cancel()
	if err := p.discard(ctx, vm); err != nil {
		p.options.Log.Warn("machine was not removed", "machine", vm.Machine.ID(), "err", err)
		p.leave(vm.Machine.ID())
	}
}

// leave has a machine removed that is nobody's and of which there may be something left: a
// monitor that dies while it removes one says nothing.
func (p *Pool) leave(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.leftover[id] = true
	p.kick()
}

// removeLeftover tries to remove what is left, once.
func (p *Pool) removeLeftover() {
	p.mu.Lock()
	ids := slices.Sorted(maps.Keys(p.leftover))
	p.mu.Unlock()
	var errs []error
	for _, id := range ids {
		ctx, cancel := context.WithTimeout(p.ctx, p.options.Clone)
		err := p.Remove(ctx, id)
		cancel()
		p.mu.Lock()
		if err == nil {
			delete(p.leftover, id)
		}
		p.mu.Unlock()
		errs = append(errs, err)
	}
	err := errors.Join(errs...)
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case err == nil:
		p.removal = attempts{}
	case p.ctx.Err() == nil:
		p.removal.failed(err)
		p.options.Log.Warn("machines were not removed", "err", err, "retry", time.Until(p.removal.after).Round(time.Second))
	}
}

// reconcile removes all machines but those to keep, and what is left of others.
func (p *Pool) reconcile(ctx context.Context, keep []string) error {
	found, err := p.options.Hypervisor.List(ctx)
	if err != nil {
		return fmt.Errorf("list machines: %w", err)
	}
	entries, err := os.ReadDir(p.options.Dir)
	if err != nil {
		return fmt.Errorf("list machines: %w", err)
	}
	for _, e := range entries {
		found = append(found, e.Name())
	}
	if p.options.Disks != nil {
		owners, err := p.options.Disks.Owners()
		if err != nil {
			return err
		}
		found = append(found, owners...)
	}
	slices.Sort(found)
	var errs []error
	for _, id := range slices.Compact(found) {
		if slices.Contains(keep, id) {
			continue
		}
		p.options.Log.Info("remove unclaimed machine", "machine", id)
		errs = append(errs, p.Remove(ctx, id))
	}
	return errors.Join(errs...)
}

// removeBelongings removes a machine's directory.
func (p *Pool) removeBelongings(id string) error {
	own := p.belongings(id)
	if p.options.Release != nil {
		if err := p.options.Release(own.netns); err != nil {
			return fmt.Errorf("remove network namespace: %w", err)
		}
	}
	return tree.Remove(own.dir)
}
