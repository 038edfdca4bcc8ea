package cri

import (
	"context"
	"time"

	"google.golang.org/grpc"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/cri/stat"
	"github.com/cricket-cri/cricket/cri/store"
	"github.com/cricket-cri/cricket/runtime"
)

// metricLabels are the labels of every metric but those of networks, which have one
// more. A pod's own figures have an empty container and image.
var metricLabels = []string{"container", "id", "image", "name", "namespace", "pod"}

const interfaceLabel = "interface"

// metric is one figure under the name that cAdvisor gave it. The CRI carries whole
// numbers, so seconds are rounded down.
type metric struct {
	name, help string
	kind       v1.MetricType
	value      func(*stat.Sample) *uint64
}

// networkMetric is one figure of a network interface.
type networkMetric struct {
	name, help string
	value      func(runtime.NetworkStat) uint64
}

// ListMetricDescriptors describes the metrics of ListPodSandboxMetrics.
func (s *Server) ListMetricDescriptors(context.Context, *v1.ListMetricDescriptorsRequest) (*v1.ListMetricDescriptorsResponse, error) {
	var all []*v1.MetricDescriptor
	for _, m := range append(metrics(), startMetric()) {
		all = append(all, &v1.MetricDescriptor{Name: m.name, Help: m.help, LabelKeys: metricLabels})
	}
	keys := append(append([]string(nil), metricLabels...), interfaceLabel)
	for _, m := range networkMetrics() {
		all = append(all, &v1.MetricDescriptor{Name: m.name, Help: m.help, LabelKeys: keys})
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
	every := func(*store.Sandbox) bool { return true }
	s.eachSandboxSample(ctx, every, func(r *store.Sandbox, sample *stat.Sample) {
		meta := r.Config.GetMetadata()
		labels := []string{"", r.ID, "", "", meta.GetNamespace(), meta.GetName()}
		pod := &v1.PodSandboxMetrics{
			PodSandboxId: r.ID,
			Metrics:      append(values(sample, r.CreatedAt, labels), networkValues(sample, labels)...),
		}
		for _, c := range s.store.ContainersOf(r.ID) {
			if m := s.containerMetrics(ctx, c, meta); m != nil {
				pod.ContainerMetrics = append(pod.ContainerMetrics, m)
			}
		}
		all = append(all, pod)
	})
	return all
}

func (s *Server) containerMetrics(ctx context.Context, r *store.Container, pod *v1.PodSandboxMetadata) *v1.ContainerMetrics {
	t, ok := s.containerTarget(r)
	if !ok {
		return nil
	}
	sample, err := s.opts.Stats.Get(ctx, t)
	if err != nil {
		return nil // ended meanwhile
	}
	name := r.Config.GetMetadata().GetName()
	labels := []string{name, r.ID, imageSpec(r).GetImage(), r.ID, pod.GetNamespace(), pod.GetName()}
	return &v1.ContainerMetrics{ContainerId: r.ID, Metrics: values(&sample, r.StartedAt, labels)}
}

// startMetric is the one figure that no sample holds.
func startMetric() metric {
	return metric{name: "container_start_time_seconds", help: "Start time, in seconds since 1970", kind: v1.MetricType_GAUGE}
}

func values(s *stat.Sample, started time.Time, labels []string) []*v1.Metric {
	since, m := uint64(started.Unix()), startMetric()
	all := []*v1.Metric{{
		Name: m.name, Timestamp: nanos(s.At), MetricType: m.kind, LabelValues: labels, Value: figure(&since),
	}}
	for _, m := range metrics() {
		if v := m.value(s); v != nil {
			all = append(all, &v1.Metric{
				Name: m.name, Timestamp: nanos(s.At), MetricType: m.kind, LabelValues: labels, Value: figure(v),
			})
		}
	}
	return all
}

func networkValues(s *stat.Sample, labels []string) []*v1.Metric {
	var all []*v1.Metric
	for _, n := range s.Network {
		with := append(append([]string(nil), labels...), n.Name)
		for _, m := range networkMetrics() {
			v := m.value(n)
			all = append(all, &v1.Metric{
				Name: m.name, Timestamp: nanos(s.At), MetricType: v1.MetricType_COUNTER, LabelValues: with, Value: figure(&v),
			})
		}
	}
	return all
}

// seconds turns a counter of units into whole seconds.
func seconds(v *uint64, unit time.Duration) *uint64 {
	if v == nil {
		return nil
	}
	s := *v * uint64(unit) / uint64(time.Second)
	return &s
}

func pressure(p *runtime.Pressure, line func(*runtime.Pressure) runtime.PressureLine) *uint64 {
	if p == nil {
		return nil
	}
	total := line(p).Total
	return seconds(&total, time.Microsecond)
}

func some(p *runtime.Pressure) runtime.PressureLine { return p.Some }
func full(p *runtime.Pressure) runtime.PressureLine { return p.Full }
