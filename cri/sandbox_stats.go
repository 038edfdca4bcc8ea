package cri

import (
	"context"
	"strings"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/cri/stat"
	"github.com/cricket-cri/cricket/cri/store"
	"github.com/cricket-cri/cricket/runtime"
)

// PodSandboxStats answers the figures of a ready sandbox and its running containers.
func (s *Server) PodSandboxStats(ctx context.Context, req *v1.PodSandboxStatsRequest) (*v1.PodSandboxStatsResponse, error) {
	rec, sb, err := s.readySandbox(req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	sample, err := s.opts.Stats.Get(ctx, stat.Sandbox(rec.ID, rec.CreatedAt, sb))
	if err != nil {
		return nil, err
	}
	return &v1.PodSandboxStatsResponse{Stats: s.sandboxStats(ctx, rec, &sample)}, nil
}

// ListPodSandboxStats answers the figures of all ready sandboxes that match.
func (s *Server) ListPodSandboxStats(ctx context.Context, req *v1.ListPodSandboxStatsRequest) (*v1.ListPodSandboxStatsResponse, error) {
	return &v1.ListPodSandboxStatsResponse{Stats: s.listSandboxStats(ctx, req.GetFilter())}, ctx.Err()
}

// StreamPodSandboxStats is ListPodSandboxStats in parts.
func (s *Server) StreamPodSandboxStats(req *v1.StreamPodSandboxStatsRequest, stream grpc.ServerStreamingServer[v1.StreamPodSandboxStatsResponse]) error {
	return inBatches(s.listSandboxStats(stream.Context(), req.GetFilter()), func(part []*v1.PodSandboxStats) error {
		return stream.Send(&v1.StreamPodSandboxStatsResponse{PodSandboxStats: part})
	})
}

func (s *Server) listSandboxStats(ctx context.Context, f *v1.PodSandboxStatsFilter) []*v1.PodSandboxStats {
	var all []*v1.PodSandboxStats
	s.eachSandboxSample(ctx, func(r *store.Sandbox) bool {
		return strings.HasPrefix(r.ID, f.GetId()) && hasLabels(r.Config.GetLabels(), f.GetLabelSelector())
	}, func(r *store.Sandbox, sample *stat.Sample) {
		all = append(all, s.sandboxStats(ctx, r, sample))
	})
	return all
}

// eachSandboxSample calls f with the figures of every ready sandbox that is wanted,
// the oldest first.
func (s *Server) eachSandboxSample(ctx context.Context, wanted func(*store.Sandbox) bool, f func(*store.Sandbox, *stat.Sample)) {
	var ready []*store.Sandbox
	var targets []stat.Target
	for _, r := range s.store.Sandboxes.List() {
		if sb := s.live.sandbox(r.ID); sb != nil && r.Ready() && wanted(r) {
			ready, targets = append(ready, r), append(targets, stat.Sandbox(r.ID, r.CreatedAt, sb))
		}
	}
	for i, r := range s.opts.Stats.All(ctx, targets) {
		if r.Err == nil {
			f(ready[i], &r.Sample)
		} else if !errdefs.IsNotFound(r.Err) {
			s.log.Debug("figures of a sandbox left out", "sandbox", ready[i].ID, "error", r.Err)
		}
	}
}

func (s *Server) sandboxStats(ctx context.Context, r *store.Sandbox, sample *stat.Sample) *v1.PodSandboxStats {
	linux := &v1.LinuxPodSandboxStats{
		Cpu:        cpuUsage(sample),
		Memory:     memoryUsage(sample),
		Network:    networkUsage(sample),
		Io:         ioUsage(sample),
		Containers: s.statsOf(ctx, s.store.ContainersOf(r.ID)),
	}
	if sample.Pids != nil {
		linux.Process = &v1.ProcessUsage{Timestamp: nanos(sample.At), ProcessCount: figure(sample.Pids)}
	}
	return &v1.PodSandboxStats{
		Attributes: &v1.PodSandboxAttributes{
			Id:          r.ID,
			Metadata:    r.Config.GetMetadata(),
			Labels:      r.Config.GetLabels(),
			Annotations: r.Config.GetAnnotations(),
		},
		Linux: linux,
	}
}

// networkUsage is nil on the host's network. The default interface is the first one,
// the others are listed beside it.
func networkUsage(s *stat.Sample) *v1.NetworkUsage {
	var u *v1.NetworkUsage
	for _, n := range s.Network {
		if n.Name == "lo" {
			continue
		}
		if u == nil {
			u = &v1.NetworkUsage{Timestamp: nanos(s.At), DefaultInterface: interfaceUsage(n)}
			continue
		}
		u.Interfaces = append(u.Interfaces, interfaceUsage(n))
	}
	return u
}

func interfaceUsage(n runtime.NetworkStat) *v1.NetworkInterfaceUsage {
	return &v1.NetworkInterfaceUsage{
		Name:     n.Name,
		RxBytes:  figure(&n.RxBytes),
		RxErrors: figure(&n.RxErrors),
		TxBytes:  figure(&n.TxBytes),
		TxErrors: figure(&n.TxErrors),
	}
}
