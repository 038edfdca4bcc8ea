package cri

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/cri/nri"
	"github.com/cricket-cri/cricket/cri/ops"
	"github.com/cricket-cri/cricket/cri/store"
	"github.com/cricket-cri/cricket/runtime/flow"
)

// StopPodSandbox kills what runs in the sandbox and gives its network back. It is
// idempotent; a sandbox that does not exist is stopped.
func (s *Server) StopPodSandbox(ctx context.Context, req *v1.StopPodSandboxRequest) (*v1.StopPodSandboxResponse, error) {
	rec, err := s.store.Sandboxes.Find(req.GetPodSandboxId())
	if errdefs.IsNotFound(err) {
		return &v1.StopPodSandboxResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	op := ops.Spec{Key: ops.Key{Kind: "stop pod sandbox", Name: rec.ID}, Budget: stopBudget}
	_, err = ops.Do(ctx, s.ops, op, func(ctx context.Context) (struct{}, error) {
		unlock, err := s.locks.Exclusive(ctx, rec.ID)
		if err != nil {
			return struct{}{}, err
		}
		defer unlock()
		return struct{}{}, s.stopSandbox(ctx, rec.ID)
	})
	if err != nil {
		return nil, fmt.Errorf("stop pod sandbox: %w", err)
	}
	return &v1.StopPodSandboxResponse{}, nil
}

// stopSandbox does the work; the caller holds the sandbox's lock.
func (s *Server) stopSandbox(ctx context.Context, id string) error {
	rec, err := s.store.Sandboxes.Get(id)
	if errdefs.IsNotFound(err) || err == nil && rec.Released {
		return nil
	}
	sb := s.live.sandbox(id)
	if sb == nil {
		return s.stopUnattached(ctx, rec)
	}
	return flow.Run(ctx, "stop pod sandbox",
		flow.Step{Name: "kill containers", Do: func(ctx context.Context) error { return s.endContainers(ctx, rec) }},
		flow.Step{Name: "tell plugins", Do: func(ctx context.Context) error {
			s.tell(func(p *nri.Plugins) { p.StopPod(ctx, s.podShown(rec)) })
			return nil
		}},
		flow.Step{Name: "stop sandbox", Do: sb.Stop},
		flow.Step{Name: "settle containers", Do: func(ctx context.Context) error { return s.settleStopped(ctx, id) }},
		flow.Step{Name: "record stop", Do: func(context.Context) error {
			s.noteStopped(id, true)
			return nil
		}})
}

// guestBudget is how long the guest of a machine may take to end its containers: from then
// on their exit codes are lost, but nobody inside can keep a pod from being stopped.
const guestBudget = 30 * time.Second

// endContainers kills the containers of a sandbox, which is the only proof that they are gone
// on a kernel that goes on. A machine takes its own along, whatever its guest says or does
// not say.
func (s *Server) endContainers(ctx context.Context, rec *store.Sandbox) error {
	if !s.isMachine(rec.Handler) {
		return s.killContainers(ctx, rec.ID)
	}
	bounded, cancel := context.WithTimeout(ctx, guestBudget)
	defer cancel()
	if err := s.killContainers(bounded, rec.ID); err != nil {
		s.log.Warn("the guest does not end its containers, its machine will", "sandbox", rec.ID, "error", err)
	}
	return ctx.Err()
}

// settleStopped sees to it that no container of a stopped sandbox counts as running: the
// exits that are known by now are recorded, and those that nobody will know.
func (s *Server) settleStopped(ctx context.Context, id string) error {
	for _, c := range s.store.ContainersOf(id) {
		if c.State() != v1.ContainerState_CONTAINER_RUNNING {
			continue
		}
		if lc := s.live.container(c.ID); lc != nil {
			gone, err := waitFor(ctx, lc.exited, settleBudget)
			if err != nil {
				return err
			}
			if gone {
				continue
			}
		}
		s.lose(c)
	}
	return nil
}

// lose is noteLost for who goes on without the disk: memory has the exit.
func (s *Server) lose(c *store.Container) {
	if err := s.noteLost(c); err != nil {
		s.log.Warn("exit of container is not on disk", "container", c.ID, "error", err)
	}
}

// settleBudget is how long the exit of a container may take to be recorded after all that
// ran in its sandbox has ended.
const settleBudget = 10 * time.Second

// stopUnattached stops a sandbox that no driver attached to: its record cannot be read,
// or its runtime handler is not configured any more. It may run all the same, so all that
// bears its id is removed, writable layers included: nothing could start in it again.
func (s *Server) stopUnattached(ctx context.Context, rec *store.Sandbox) error {
	return flow.Run(ctx, "stop pod sandbox",
		flow.Step{Name: "sweep sandbox", Do: func(ctx context.Context) error { return s.sweepSandbox(ctx, rec) }},
		flow.Step{Name: "record stop", Do: func(context.Context) error {
			for _, c := range s.store.ContainersOf(rec.ID) {
				s.lose(c)
			}
			s.noteStopped(rec.ID, true)
			return nil
		}})
}

// killContainers ends all containers of a sandbox at once and waits for them.
func (s *Server) killContainers(ctx context.Context, sandboxID string) error {
	var g errgroup.Group
	for _, c := range s.store.ContainersOf(sandboxID) {
		if c.State() != v1.ContainerState_CONTAINER_RUNNING {
			continue
		}
		g.Go(func() error {
			if err := s.stopContainer(ctx, c.ID, 0); err != nil {
				return fmt.Errorf("kill container %s: %w", store.ShortID(c.ID), err)
			}
			return nil
		})
	}
	return g.Wait()
}
