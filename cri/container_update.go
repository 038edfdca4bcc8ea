package cri

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/containerd/nri/pkg/api"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/cri/nri"
	"github.com/cricket-cri/cricket/cri/ops"
	"github.com/cricket-cri/cricket/cri/store"
	"github.com/cricket-cri/cricket/runtime"
)

// UpdateContainerResources changes the limits of a created or running container; fields
// that the request leaves zero stay as they are.
func (s *Server) UpdateContainerResources(ctx context.Context, req *v1.UpdateContainerResourcesRequest) (*v1.UpdateContainerResourcesResponse, error) {
	rec, err := s.store.Containers.Find(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	digest, err := digestOf(req)
	if err != nil {
		return nil, err
	}
	if req.GetWindows() != nil {
		return nil, badField("windows", "this is a Linux node")
	}
	op := ops.Spec{Key: ops.Key{Kind: "update container", Name: rec.ID + " " + digest}, Budget: quickBudget}
	_, err = ops.Do(ctx, s.ops, op, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, s.updateContainer(ctx, rec.ID, req.GetLinux())
	})
	if err != nil {
		return nil, fmt.Errorf("update container: %w", err)
	}
	return &v1.UpdateContainerResourcesResponse{}, nil
}

func (s *Server) updateContainer(ctx context.Context, id string, update *v1.LinuxContainerResources) error {
	unlock, err := s.locks.Exclusive(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	rec, err := s.store.Containers.Get(id)
	if err != nil {
		return err
	}
	if err := allow("update", rec.State()); err != nil {
		return err
	}
	pod, err := s.store.Sandboxes.Get(rec.SandboxID)
	if err != nil {
		return err
	}
	host := s.hostFor(pod.Handler)
	wanted, err := s.askUpdate(ctx, rec, update, host)
	if err != nil {
		return err
	}
	err = s.setLimits(ctx, id, func(kept *runtime.Resources) (*runtime.Resources, error) {
		out, err := mergeResources(kept, update, host)
		if err != nil || wanted == nil {
			return out, err
		}
		return s.limitsOf(rec).Overlay(out, wanted)
	})
	if err != nil || s.plugins == nil {
		return err
	}
	if rec, err = s.store.Containers.Get(id); err == nil {
		s.tell(func(p *nri.Plugins) { p.Updated(ctx, s.podOf(rec), nri.Container(rec)) })
	}
	return nil
}

// askUpdate asks plugins what an update is to be instead, nil if there is no NRI.
func (s *Server) askUpdate(ctx context.Context, rec *store.Container, update *v1.LinuxContainerResources, host hostFacts) (*api.LinuxResources, error) {
	if s.plugins == nil {
		return nil, nil
	}
	if _, err := mergeResources(rec.Resources, update, host); err != nil {
		return nil, err // what makes no sense is not asked about
	}
	return s.plugins.Update(ctx, s.podOf(rec), nri.Container(rec), nri.Requested(update))
}

// setLimits changes the limits of a container. It holds a lock of their own and takes no
// other: plugins change limits of containers while others are made and updated.
func (s *Server) setLimits(ctx context.Context, id string, change func(kept *runtime.Resources) (*runtime.Resources, error)) error {
	unlock, err := s.locks.Exclusive(ctx, "limits of "+id)
	if err != nil {
		return err
	}
	defer unlock()
	rec, err := s.store.Containers.Get(id)
	if err != nil {
		return err
	}
	if err := allow("update", rec.State()); err != nil {
		return err
	}
	want, err := change(rec.Resources)
	if err != nil {
		return err
	}
	lc := s.live.container(id)
	if lc == nil {
		return fmt.Errorf("nothing is left of the container: %w", errdefs.ErrFailedPrecondition)
	}
	if err := lc.Update(ctx, want); err != nil {
		return err
	}
	_, err = s.store.Containers.Update(id, func(r *store.Container) { r.Resources = want })
	return err
}
