package cri

import (
	"context"
	"slices"
	"time"

	"google.golang.org/grpc"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/cri/stat"
	"github.com/cricket-cri/cricket/cri/store"
	"github.com/cricket-cri/cricket/runtime"
)

// metricLabels are the labels of every metric, before its own. A pod's own figures have an
// empty container and image.
var metricLabels = []string{"container", "id", "image", "name", "namespace", "pod"}

// metric is a figure under the name that cAdvisor gave it (KEP-2371). The CRI carries whole
// numbers, so seconds are rounded down.
type metric struct {
	name, help string
	kind       v1.MetricType
	labels     []string // its own
	// v2 metrics are there with cgroups of version 2 only.
	v2 bool
	// values are those that are known, each with values of the labels.
	values func(*measured) []value
}

type value struct {
	v      uint64
	labels []string
}

// measured is all that is known of a pod or a container.
type measured struct {
	*stat.Sample
	created, started time.Time
	// processes and disk are nil for pods, and where they are not known.
	processes *runtime.ProcessStat
	disk      *runtime.DiskUsage
}

// table is the metrics that every runtime handler has. A client takes it that every pod has
// what is described, and critest fails a runtime of which that is not so: where the node's
// cgroups are of version 1, virtual machines do without what version 2 has besides.
func (s *Server) table() []metric {
	all := metrics()
	for _, d := range s.opts.Drivers {
		if !d.Features().CgroupV2 {
			return slices.DeleteFunc(all, func(m metric) bool { return m.v2 })
		}
	}
	return all
}

// ListMetricDescriptors describes the metrics of ListPodSandboxMetrics: the kubelet asks once,
// when it starts.
func (s *Server) ListMetricDescriptors(context.Context, *v1.ListMetricDescriptorsRequest) (*v1.ListMetricDescriptorsResponse, error) {
	var all []*v1.MetricDescriptor
	for _, m := range s.table() {
		all = append(all, &v1.MetricDescriptor{Name: m.name, Help: m.help, LabelKeys: slices.Concat(metricLabels, m.labels)})
	}
	return &v1.ListMetricDescriptorsResponse{Descriptors: all}, nil
}

// ListPodSandboxMetrics answers the metrics of all ready sandboxes and their running
// containers. What the kernel does not tell is left out.
func (s *Server) ListPodSandboxMetrics(ctx context.Context, _ *v1.ListPodSandboxMetricsRequest) (*v1.ListPodSandboxMetricsResponse, error) {
	return &v1.ListPodSandboxMetricsResponse{PodMetrics: s.listMetrics(ctx)}, ctx.Err()
}

// StreamPodSandboxMetrics is ListPodSandboxMetrics in parts.
func (s *Server) StreamPodSandboxMetrics(_ *v1.StreamPodSandboxMetricsRequest, stream grpc.ServerStreamingServer[v1.StreamPodSandboxMetricsResponse]) error {
	return inBatches(s.listMetrics(stream.Context()), func(part []*v1.PodSandboxMetrics) error {
		return stream.Send(&v1.StreamPodSandboxMetricsResponse{PodSandboxMetrics: part})
	})
}

func (s *Server) listMetrics(ctx context.Context) []*v1.PodSandboxMetrics {
	var all []*v1.PodSandboxMetrics
	var containers []*store.Container
	every := func(*store.Sandbox) bool { return true }
	table := s.table()
	type pod struct {
		*v1.PodSandboxMetrics
		meta *v1.PodSandboxMetadata
	}
	pods := map[string]pod{}
	s.eachSandboxSample(ctx, every, func(r *store.Sandbox, sample *stat.Sample) {
		meta := r.Config.GetMetadata()
		labels := []string{"", r.ID, "", "", meta.GetNamespace(), meta.GetName()}
		p := &v1.PodSandboxMetrics{
			PodSandboxId: r.ID,
			Metrics:      values(table, &measured{Sample: sample, created: r.CreatedAt, started: r.ReadyAt}, labels),
		}
		all, pods[r.ID] = append(all, p), pod{p, meta}
		containers = append(containers, s.store.ContainersOf(r.ID)...)
	})
	for i, m := range s.measureContainers(ctx, containers) {
		if m == nil {
			continue
		}
		c, p := containers[i], pods[containers[i].SandboxID]
		labels := []string{c.Config.GetMetadata().GetName(), c.ID, imageSpec(c).GetImage(), c.ID, p.meta.GetNamespace(), p.meta.GetName()}
		p.ContainerMetrics = append(p.ContainerMetrics, &v1.ContainerMetrics{ContainerId: c.ID, Metrics: values(table, m, labels)})
	}
	return all
}

// measureContainers is in the order of records, nil for a container that does not run, or has
// ended meanwhile.
func (s *Server) measureContainers(ctx context.Context, records []*store.Container) []*measured {
	all := make([]*measured, len(records))
	var running []int
	var targets []stat.Target
	for i, r := range records {
		if t, ok := s.containerTarget(r); ok {
			running, targets = append(running, i), append(targets, t)
		}
	}
	samples := s.opts.Stats.All(ctx, targets)
	counting, cancel := context.WithTimeout(ctx, countBudget)
	defer cancel()
	stat.Each(len(running), func(i int) {
		r := records[running[i]]
		if err := samples[i].Err; err != nil {
			s.log.Debug("figures of a container left out", "container", r.ID, "error", err)
			return
		}
		counting, cancel := s.countingOne(counting, r)
		defer cancel()
		all[running[i]] = &measured{
			Sample: &samples[i].Sample, created: r.CreatedAt, started: r.StartedAt,
			processes: s.countProcesses(counting, r),
			disk:      s.opts.Stats.AwaitDisk(counting, s.sampledContainer(r.ID)),
		}
	})
	return all
}

const (
	// countTime is how long the processes of one container may be counted, and its writable
	// layer for the first time, that are on the node's kernel: it is the daemon that counts,
	// and nothing comes of it that goes on longer.
	countTime = 500 * time.Millisecond
	// countBudget is how long all of them may be counted, and guests be waited for that count
	// their own.
	countBudget = 3 * time.Second
)

// countingOne bounds what is counted of one container within ctx.
func (s *Server) countingOne(ctx context.Context, r *store.Container) (context.Context, context.CancelFunc) {
	if pod, err := s.store.Sandboxes.Get(r.SandboxID); err == nil && s.isMachine(pod.Handler) {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, countTime)
}

// countProcesses is nil for a hull that cannot, for a container that has just ended, and for
// one of which it takes too long.
func (s *Server) countProcesses(ctx context.Context, r *store.Container) *runtime.ProcessStat {
	c := s.live.container(r.ID)
	if c == nil || ctx.Err() != nil {
		return nil
	}
	counter, ok := c.Container.(interface {
		Processes(ctx context.Context) (runtime.ProcessStat, error)
	})
	if !ok {
		return nil
	}
	p, err := counter.Processes(ctx)
	if err != nil {
		s.log.Debug("processes of a container left out", "container", r.ID, "error", err)
		return nil
	}
	if p.Processes == 0 {
		return nil
	}
	return &p
}

func values(table []metric, m *measured, labels []string) []*v1.Metric {
	var all []*v1.Metric
	for _, row := range table {
		for _, v := range row.values(m) {
			with := labels
			if len(v.labels) > 0 {
				with = slices.Concat(labels, v.labels)
			}
			all = append(all, &v1.Metric{
				Name: row.name, Timestamp: nanos(m.At), MetricType: row.kind, LabelValues: with, Value: figure(&v.v),
			})
		}
	}
	return all
}
