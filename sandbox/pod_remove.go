package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime/flow"
	"github.com/cricket-cri/cricket/runtime/rmtree"
)

// killBudget is how long killed containers may take to die.
const killBudget = 20 * time.Second

// Stop ends everything that runs in the sandbox and gives its network back. It is
// idempotent.
func (p *pod) Stop(ctx context.Context) error {
	err := flow.Run(ctx, "stop sandbox",
		flow.Step{Name: "kill containers", Do: p.killContainers},
		flow.Step{Name: "disconnect network", Do: p.disconnect},
		flow.Step{Name: "release namespaces", Do: p.releaseNamespaces},
	)
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.stopped = true
	p.mu.Unlock()
	p.end()
	return nil
}

// containerIDs lists the containers of the pod, whole and half-made.
func (p *pod) containerIDs() ([]string, error) {
	entries, err := os.ReadDir(p.dir(containersDir))
	if errors.Is(err, os.ErrNotExist) {
		// The machine was started anew: only writable layers can be left.
		return p.driver.layersOf(p.id())
	}
	if err != nil {
		return nil, fmt.Errorf("list containers of sandbox: %w", err)
	}
	ids := make([]string, len(entries))
	for i, e := range entries {
		ids[i] = e.Name()
	}
	return ids, nil
}

// killContainers returns when all containers are dead, so that none of them can use
// the network when it is taken away.
func (p *pod) killContainers(ctx context.Context) error {
	ids, err := p.containerIDs()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, killBudget)
	defer cancel()
	for _, id := range ids {
		err := p.driver.opts.Monitor.Signal(ctx, id, unix.SIGKILL)
		if err != nil && !errdefs.IsNotFound(err) && !errdefs.IsFailedPrecondition(err) {
			return fmt.Errorf("kill container %s: %w", id, err)
		}
		if err := p.killCgroup(id); err != nil {
			return fmt.Errorf("kill container %s: %w", id, err)
		}
	}
	for _, id := range ids {
		if err := p.awaitExit(ctx, id); err != nil {
			return fmt.Errorf("wait for container %s: %w", id, err)
		}
	}
	return nil
}

// awaitExit does not wait for a container that was never started: the monitor keeps
// its process, which is no longer alive, until Delete.
func (p *pod) awaitExit(ctx context.Context, id string) error {
	_, err := p.driver.opts.Monitor.Wait(ctx, id)
	if errdefs.IsNotFound(err) || errdefs.IsFailedPrecondition(err) {
		return nil
	}
	return err
}

func (p *pod) killCgroup(id string) error {
	_, path, err := p.driver.naming.Container(p.parent(), id)
	if err != nil {
		return nil //nolint:nilerr // made with the other cgroup driver: the monitor's kill has to do
	}
	return p.driver.cgroup.Kill(path)
}

// Remove deletes what is left after Stop, stopping first if need be. It is idempotent.
func (p *pod) Remove(ctx context.Context) error {
	if err := p.Stop(ctx); err != nil {
		return err
	}
	return flow.Run(ctx, "remove sandbox",
		flow.Step{Name: "remove containers", Do: p.removeContainers},
		flow.Step{Name: "unmount shared memory", Do: func(context.Context) error { return p.unmountShm() }},
		flow.Step{Name: "remove cgroup", Do: p.removeCgroup},
		// The directory goes last: as long as it is there, Sweep knows of the sandbox.
		flow.Step{Name: "remove directory", Do: func(context.Context) error { return rmtree.Remove(p.dir()) }},
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
