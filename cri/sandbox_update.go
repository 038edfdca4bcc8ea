package cri

import (
	"context"
	"fmt"

	"google.golang.org/protobuf/proto"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/cri/nri"
	"github.com/cricket-cri/cricket/cri/ops"
	"github.com/cricket-cri/cricket/cri/store"
)

// UpdatePodSandboxResources changes the limits of the sandbox as a whole, which are those of
// its containers and of its overhead together; what the request leaves out stays.
func (s *Server) UpdatePodSandboxResources(ctx context.Context, req *v1.UpdatePodSandboxResourcesRequest) (*v1.UpdatePodSandboxResourcesResponse, error) {
	rec, _, err := s.readySandbox(req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	digest, err := digestOf(req)
	if err != nil {
		return nil, err
	}
	host := s.hostFor(rec.Handler)
	overhead, err := convertResources("overhead", req.GetOverhead(), host)
	if err != nil {
		return nil, err
	}
	want, err := convertResources("resources", lessOverhead(req.GetResources()), host)
	if err != nil {
		return nil, err
	}
	op := ops.Spec{Key: ops.Key{Kind: "update pod sandbox", Name: rec.ID + " " + digest}, Budget: quickBudget}
	_, err = ops.Do(ctx, s.ops, op, func(ctx context.Context) (struct{}, error) {
		unlock, err := s.locks.Shared(ctx, rec.ID)
		if err != nil {
			return struct{}{}, err
		}
		defer unlock()
		rec, sb, err := s.readySandbox(rec.ID) // it may have been stopped meanwhile
		if err != nil || want == nil && overhead == nil {
			return struct{}{}, err
		}
		return struct{}{}, s.updateSandbox(ctx, rec, req, func(ctx context.Context) (*store.Sandbox, error) {
			if err := sb.Update(ctx, want, overhead); err != nil {
				return nil, err
			}
			return s.store.Sandboxes.Update(rec.ID, func(r *store.Sandbox) {
				r.Resources, r.Overhead = r.Resources.With(want), r.Overhead.With(overhead)
			})
		})
	})
	if err != nil {
		return nil, fmt.Errorf("update pod sandbox: %w", err)
	}
	return &v1.UpdatePodSandboxResourcesResponse{}, nil
}

// updateSandbox lets plugins know before and after an update of a pod's limits, which
// returns the pod's new record.
func (s *Server) updateSandbox(ctx context.Context, rec *store.Sandbox, req *v1.UpdatePodSandboxResourcesRequest, update func(context.Context) (*store.Sandbox, error)) error {
	err := s.plugins.UpdatePod(ctx, s.podShown(rec), nri.Requested(req.GetOverhead()), nri.Requested(req.GetResources()))
	if err != nil {
		return err
	}
	if rec, err = update(ctx); err != nil {
		return err
	}
	s.tell(func(p *nri.Plugins) { p.UpdatedPod(ctx, s.podShown(rec)) })
	return nil
}

// lessOverhead reads what the kubelet makes of a pod's limits by taking its overhead from
// them: where there is no limit, -1, something less comes of it.
func lessOverhead(r *v1.LinuxContainerResources) *v1.LinuxContainerResources {
	if r == nil {
		return nil
	}
	r = proto.CloneOf(r)
	r.CpuQuota = max(r.GetCpuQuota(), -1)
	r.MemoryLimitInBytes = max(r.GetMemoryLimitInBytes(), -1)
	return r
}
