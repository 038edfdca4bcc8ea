package cri

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/cri/ops"
	"github.com/cricket-cri/cricket/runtime/flow"
)

// RemoveContainer kills the container if it runs and deletes it. It is idempotent; a
// container that does not exist is removed.
func (s *Server) RemoveContainer(ctx context.Context, req *v1.RemoveContainerRequest) (*v1.RemoveContainerResponse, error) {
	rec, err := s.store.Containers.Find(req.GetContainerId())
	if errdefs.IsNotFound(err) {
		return &v1.RemoveContainerResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	op := ops.Spec{Key: ops.Key{Kind: "remove container", Name: rec.ID}, Budget: stopBudget}
	_, err = ops.Do(ctx, s.ops, op, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, s.removeContainer(ctx, rec.ID)
	})
	if err != nil {
		return nil, fmt.Errorf("remove container: %w", err)
	}
	return &v1.RemoveContainerResponse{}, nil
}

func (s *Server) removeContainer(ctx context.Context, id string) error {
	unlock, err := s.locks.Exclusive(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	rec, err := s.settled(ctx, id)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	err = flow.Run(ctx, "remove container",
		flow.Step{Name: "kill container", Do: func(ctx context.Context) error {
			if rec.State() != v1.ContainerState_CONTAINER_RUNNING {
				return nil
			}
			return s.endContainer(ctx, rec, 0)
		}},
		flow.Step{Name: "remove container", Do: func(ctx context.Context) error {
			if lc := s.live.container(id); lc != nil {
				return lc.Remove(ctx)
			}
			c, err := s.behind(ctx, id)
			if err != nil || c == nil {
				return err
			}
			return c.Remove(ctx)
		}},
		flow.Step{Name: "forget container", Do: func(context.Context) error {
			if now, err := s.store.Containers.Get(id); err == nil {
				rec = now // ended: what plugins are shown
			}
			return s.store.Containers.Delete(id)
		}})
	if err != nil {
		return err
	}
	if lc := s.live.container(id); lc != nil {
		lc.awaitTold() // its end comes first
	}
	s.live.forgetContainer(id)
	s.tellRemoved(ctx, rec)
	s.ops.Forget(createKey(rec.SandboxID, rec.Config.GetMetadata()))
	if !rec.Pending() {
		s.emitContainer(v1.ContainerEventType_CONTAINER_DELETED_EVENT, rec)
	}
	return nil
}
