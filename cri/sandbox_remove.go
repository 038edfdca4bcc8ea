package cri

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/cri/nri"
	"github.com/cricket-cri/cricket/cri/ops"
	"github.com/cricket-cri/cricket/cri/store"
	"github.com/cricket-cri/cricket/runtime/flow"
)

// RemovePodSandbox stops the sandbox if need be and deletes it with its containers. It
// is idempotent; a sandbox that does not exist is removed.
func (s *Server) RemovePodSandbox(ctx context.Context, req *v1.RemovePodSandboxRequest) (*v1.RemovePodSandboxResponse, error) {
	rec, err := s.store.Sandboxes.Find(req.GetPodSandboxId())
	if errdefs.IsNotFound(err) {
		return &v1.RemovePodSandboxResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	op := ops.Spec{Key: ops.Key{Kind: "remove pod sandbox", Name: rec.ID}, Budget: stopBudget}
	_, err = ops.Do(ctx, s.ops, op, func(ctx context.Context) (struct{}, error) {
		unlock, err := s.locks.Exclusive(ctx, rec.ID)
		if err != nil {
			return struct{}{}, err
		}
		defer unlock()
		return struct{}{}, s.removeSandbox(ctx, rec.ID)
	})
	if err != nil {
		return nil, fmt.Errorf("remove pod sandbox: %w", err)
	}
	return &v1.RemovePodSandboxResponse{}, nil
}

// removeSandbox does the work; the caller holds the sandbox's lock.
func (s *Server) removeSandbox(ctx context.Context, id string) error {
	rec, err := s.store.Sandboxes.Get(id)
	if errdefs.IsNotFound(err) {
		return nil
	}
	err = flow.Run(ctx, "remove pod sandbox",
		flow.Step{Name: "stop sandbox", Do: func(ctx context.Context) error { return s.stopSandbox(ctx, id) }},
		flow.Step{Name: "remove containers", Do: func(ctx context.Context) error {
			for _, c := range s.store.ContainersOf(id) {
				if err := s.removeContainer(ctx, c.ID); err != nil {
					return fmt.Errorf("remove container %s: %w", store.ShortID(c.ID), err)
				}
			}
			return nil
		}},
		flow.Step{Name: "remove sandbox", Do: func(ctx context.Context) error { return s.sweepSandbox(ctx, rec) }},
		flow.Step{Name: "forget sandbox", Do: func(context.Context) error {
			if now, err := s.store.Sandboxes.Get(id); err == nil {
				rec = now // stopped: what the last event shows
			}
			return s.store.Sandboxes.Delete(id)
		}})
	if err != nil {
		return err
	}
	s.live.forgetSandbox(id)
	if rec.Broken == "" {
		s.tell(func(p *nri.Plugins) { p.RemovePod(ctx, nri.Pod(rec, "")) })
	}
	s.ops.Forget(runKey(rec))
	s.emit(v1.ContainerEventType_CONTAINER_DELETED_EVENT, rec, id)
	return nil
}

// sweepSandbox removes what is left of a stopped sandbox. If no driver's object stands
// for it, each driver that may have made it is asked to remove what bears its id.
func (s *Server) sweepSandbox(ctx context.Context, rec *store.Sandbox) error {
	if sb := s.live.sandbox(rec.ID); sb != nil {
		return sb.Remove(ctx)
	}
	if d := s.opts.Drivers[rec.Handler]; d != nil {
		return d.Sweep(ctx, rec.ID)
	}
	err := s.askAllToSweep(ctx, rec.ID)
	if err != nil {
		// One may have met what another has removed since, such as a process in a cgroup.
		err = s.askAllToSweep(ctx, rec.ID)
	}
	return err
}

func (s *Server) askAllToSweep(ctx context.Context, id string) error {
	var errs []error
	for _, d := range s.opts.Drivers {
		errs = append(errs, d.Sweep(ctx, id))
	}
	return errors.Join(errs...)
}
