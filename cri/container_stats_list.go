package cri

import (
	"context"
	"strings"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/cri/stat"
	"github.com/cricket-cri/cricket/cri/store"
)

// ListContainerStats answers the figures of all running containers that match.
func (s *Server) ListContainerStats(ctx context.Context, req *v1.ListContainerStatsRequest) (*v1.ListContainerStatsResponse, error) {
	return &v1.ListContainerStatsResponse{Stats: s.listContainerStats(ctx, req.GetFilter())}, ctx.Err()
}

// StreamContainerStats is ListContainerStats in parts.
func (s *Server) StreamContainerStats(req *v1.StreamContainerStatsRequest, stream grpc.ServerStreamingServer[v1.StreamContainerStatsResponse]) error {
	return inBatches(s.listContainerStats(stream.Context(), req.GetFilter()), func(part []*v1.ContainerStats) error {
		return stream.Send(&v1.StreamContainerStatsResponse{ContainerStats: part})
	})
}

func (s *Server) listContainerStats(ctx context.Context, f *v1.ContainerStatsFilter) []*v1.ContainerStats {
	var records []*store.Container
	for _, r := range s.store.Containers.List() {
		if strings.HasPrefix(r.ID, f.GetId()) && strings.HasPrefix(r.SandboxID, f.GetPodSandboxId()) &&
			hasLabels(r.Config.GetLabels(), f.GetLabelSelector()) {
			records = append(records, r)
		}
	}
	return s.statsOf(ctx, records)
}

// statsOf leaves out what does not run, and what ended while it was looked at.
func (s *Server) statsOf(ctx context.Context, records []*store.Container) []*v1.ContainerStats {
	var running []*store.Container
	var targets []stat.Target
	for _, r := range records {
		if t, ok := s.containerTarget(r); ok {
			running, targets = append(running, r), append(targets, t)
		}
	}
	var all []*v1.ContainerStats
	for i, r := range s.opts.Stats.All(ctx, targets) {
		if r.Err == nil {
			all = append(all, s.containerStats(ctx, running[i], &r.Sample))
		} else if !errdefs.IsNotFound(r.Err) {
			s.log.Debug("figures of a container left out", "container", running[i].ID, "error", r.Err)
		}
	}
	return all
}
