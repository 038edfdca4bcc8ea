package vmsandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime/flow"
	"github.com/cricket-cri/cricket/vmsandbox/network"
)

const (
	// killBudget is how long a killed hypervisor may take to die.
	killBudget = 10 * time.Second
	// partBudget is how long killed containers may take, so that their exit codes and the
	// ends of their logs are known. A guest that does not answer has none to give.
	partBudget = 5 * time.Second
)

// errStopped is why a pod ended that was stopped.
var errStopped = fmt.Errorf("sandbox is stopped: %w", errdefs.ErrFailedPrecondition)

// Stop ends the machine and gives the network back, whether the machine lives, hangs or is
// gone. It is idempotent.
func (p *pod) Stop(ctx context.Context) error {
	err := flow.Run(ctx, "stop virtual sandbox",
		flow.Step{Name: "kill containers", Do: p.killContainers},
		flow.Step{Name: "kill machine", Do: p.killMachine},
		flow.Step{Name: "disconnect network", Do: p.deleteNetwork},
		flow.Step{Name: "remove machine", Do: p.removeMachine},
	)
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.stopped = true
	p.mu.Unlock()
	return nil
}

// killContainers learns what can still be learnt of the containers.
func (p *pod) killContainers(ctx context.Context) error {
	if _, ended := p.ended(); ended != nil || p.machine == nil {
		return nil
	}
	ids, err := p.containerIDs()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, partBudget)
	defer cancel()
	var g errgroup.Group
	for _, id := range ids {
		g.Go(func() error {
			c := p.container(id)
			if c.record().exited() || c.Signal(ctx, unix.SIGKILL) != nil {
				return nil
			}
			if _, err := c.Wait(ctx); err != nil {
				p.driver.opts.Log.Debug("exit of container is not learnt", "sandbox", p.id, "container", id, "error", err)
			}
			return nil
		})
	}
	return g.Wait()
}

func (p *pod) killMachine(context.Context) error {
	p.end(errStopped)
	if p.machine == nil {
		return nil
	}
	err := p.kill()
	p.watching.Wait()
	return err
}

// removeMachine is idempotent. The network must have been deleted, unless it never was.
func (p *pod) removeMachine(ctx context.Context) error {
	s := p.snapshot()
	if s.Machine == "" {
		return nil
	}
	p.end(errStopped)
	p.watching.Wait()
	var errs []error
	if p.volumes != nil {
		errs = append(errs, p.volumes.Close())
	}
	if s.NetNS != "" {
		errs = append(errs, network.Remove(s.NetNS))
	}
	// A mount that stayed would let the removal of the directory reach the host's files.
	errs = append(errs, detachBelow(s.Dir))
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := p.driver.opts.Machines.Remove(ctx, s.Machine); err != nil {
		return err
	}
	if p.machine != nil && p.machine.Release != nil {
		_ = p.machine.Release() // it is gone
	}
	return p.driver.opts.Disks.Remove(s.Machine)
}

// detachBelow unmounts everything below a machine's directory.
func detachBelow(dir string) error {
	if dir == "" {
		return nil
	}
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return fmt.Errorf("read mounts: %w", err)
	}
	for _, m := range slices.Backward(mounts) {
		err := unix.Unmount(m.Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if err != nil && err != unix.EINVAL && err != unix.ENOENT {
			return fmt.Errorf("unmount %s: %w", m.Mountpoint, err)
		}
	}
	return nil
}

// Remove deletes what is left after Stop, stopping first if need be. It is idempotent.
func (p *pod) Remove(ctx context.Context) error {
	if err := p.Stop(ctx); err != nil {
		return err
	}
	return flow.Run(ctx, "remove virtual sandbox",
		flow.Step{Name: "remove containers", Do: p.removeContainers},
		flow.Step{Name: "leave cgroup", Do: p.leaveCgroup},
		// The directory goes last: as long as it is there, Sweep knows of the sandbox.
		flow.Step{Name: "remove directory", Do: func(context.Context) error {
			p.driver.forget(p)
			return os.RemoveAll(p.dir())
		}},
	)
}

func (p *pod) removeContainers(ctx context.Context) error {
	ids, err := p.containerIDs()
	if err != nil {
		return err
	}
	for _, id := range ids {
		if err := p.container(id).Remove(ctx); err != nil {
			return fmt.Errorf("remove container %s: %w", id, err)
		}
	}
	return nil
}

// containerIDs lists the containers of the pod, whole and half-made.
func (p *pod) containerIDs() ([]string, error) { return readNames(p.dir(containersDir)) }

func readNames(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", dir, err)
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}
