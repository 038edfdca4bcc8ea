package cri

import (
	"context"

	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/cri/stat"
	"github.com/cricket-cri/cricket/cri/store"
)

// ContainerStats answers a container's figures, at most the sampler's age old. Of a
// container that does not run, only what it occupies on the disk is known.
func (s *Server) ContainerStats(ctx context.Context, req *v1.ContainerStatsRequest) (*v1.ContainerStatsResponse, error) {
	rec, err := s.store.Containers.Find(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	t, ok := s.containerTarget(rec)
	if !ok {
		return &v1.ContainerStatsResponse{Stats: s.containerStats(ctx, rec, nil)}, nil
	}
	sample, err := s.opts.Stats.Get(ctx, t)
	if err != nil {
		return nil, err
	}
	return &v1.ContainerStatsResponse{Stats: s.containerStats(ctx, rec, &sample)}, nil
}

// containerTarget is what the sampler reads of a running container.
func (s *Server) containerTarget(r *store.Container) (stat.Target, bool) {
	c := s.live.container(r.ID)
	if c == nil || r.State() != v1.ContainerState_CONTAINER_RUNNING {
		return stat.Target{}, false
	}
	return stat.Container(r.ID, r.StartedAt, c), true
}

func (s *Server) containerStats(ctx context.Context, r *store.Container, sample *stat.Sample) *v1.ContainerStats {
	st := &v1.ContainerStats{Attributes: &v1.ContainerAttributes{
		Id:          r.ID,
		Metadata:    r.Config.GetMetadata(),
		Labels:      r.Config.GetLabels(),
		Annotations: r.Config.GetAnnotations(),
	}}
	if u := s.opts.Stats.Disk(ctx, s.sampledContainer(r.ID)); u != nil {
		st.WritableLayer = &v1.FilesystemUsage{
			Timestamp:  nanos(u.At),
			FsId:       &v1.FilesystemIdentifier{Mountpoint: s.opts.ImageDir},
			UsedBytes:  &v1.UInt64Value{Value: u.Bytes},
			InodesUsed: &v1.UInt64Value{Value: u.Inodes},
		}
	}
	if sample != nil {
		st.Cpu = cpuUsage(sample)
		st.Memory = memoryUsage(sample)
		st.Swap = swapUsage(sample)
		st.Io = ioUsage(sample)
	}
	return st
}

// sampled lists everything that the sampler may know.
func (s *Server) sampled() []stat.Live {
	s.live.mu.RLock()
	defer s.live.mu.RUnlock()
	var all []stat.Live
	for id := range s.live.sandboxes {
		all = append(all, stat.Live{ID: id})
	}
	for id, c := range s.live.containers {
		all = append(all, stat.Live{ID: id, Layer: layerOf(c)})
	}
	return all
}

func (s *Server) sampledContainer(id string) stat.Live {
	l := stat.Live{ID: id}
	if c := s.live.container(id); c != nil {
		l.Layer = layerOf(c)
	}
	return l
}

// layerOf is nil for a hull that cannot measure writable layers.
func layerOf(c *liveContainer) stat.Measurer {
	m, _ := c.Container.(stat.Measurer)
	return m
}
