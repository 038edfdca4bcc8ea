package cri

import (
	"net/http"
	"path"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc/codes"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Metrics is what the daemon tells Prometheus of itself.
type Metrics struct {
	registry *prometheus.Registry
	calls    *prometheus.HistogramVec
	steps    *prometheus.HistogramVec
	pulls    *prometheus.HistogramVec
}

// NewMetrics makes the metrics of this daemon; version is shown by one of them.
func NewMetrics(version string) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		calls: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "cricket",
			Name:      "call_duration_seconds",
			Help:      "How long CRI calls took, by method and gRPC code.",
			Buckets:   []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10, 60},
		}, []string{"method", "code"}),
		steps: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "cricket",
			Name:      "step_duration_seconds",
			Help:      "How long the steps of operations took, by operation, step and whether they succeeded.",
			Buckets:   []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10, 60},
		}, []string{"flow", "step", "ok"}),
		pulls: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "cricket",
			Name:      "image_pull_duration_seconds",
			Help:      "How long pulls of images took, by gRPC code; all but OK are failures.",
			Buckets:   []float64{.1, .5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800},
		}, []string{"code"}),
	}
	m.registry.MustRegister(
		m.calls,
		m.steps,
		m.pulls,
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace:   "cricket",
			Name:        "build_info",
			Help:        "Always 1; the label tells the version.",
			ConstLabels: prometheus.Labels{"version": version},
		}, func() float64 { return 1 }),
	)
	return m
}

// Observe counts a call that has ended. It is what an Interceptor wants.
func (m *Metrics) Observe(method string, took time.Duration, code codes.Code) {
	m.calls.WithLabelValues(method, code.String()).Observe(took.Seconds())
	if method == path.Base(v1.ImageService_PullImage_FullMethodName) {
		m.pulls.WithLabelValues(code.String()).Observe(took.Seconds())
	}
}

// ObserveStep counts a step that has ended. It is an ops.StepTimer.
func (m *Metrics) ObserveStep(flow, step string, took time.Duration, err error) {
	m.steps.WithLabelValues(flow, step, strconv.FormatBool(err == nil)).Observe(took.Seconds())
}

// Watch adds the numbers of sandboxes and containers of s, by state, and what its images
// occupy. It may be called once.
func (m *Metrics) Watch(s *Server) { m.registry.MustRegister(inventory{s}) }

// Add adds what another part of the daemon measures. No two may have metrics of one name.
func (m *Metrics) Add(c prometheus.Collector) { m.registry.MustRegister(c) }

// Handler serves the metrics.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// inventory counts what a server has when it is asked.
type inventory struct{ s *Server }

func (inventory) sandboxes() *prometheus.Desc {
	return prometheus.NewDesc("cricket_sandboxes", "Pod sandboxes by state.", []string{"state"}, nil)
}

func (inventory) containers() *prometheus.Desc {
	return prometheus.NewDesc("cricket_containers", "Containers by state.", []string{"state"}, nil)
}

func (inventory) images() *prometheus.Desc {
	return prometheus.NewDesc("cricket_images", "Images in the store.", nil, nil)
}

func (inventory) bytes() *prometheus.Desc {
	return prometheus.NewDesc("cricket_image_store_bytes", "What images occupy on the disk, layers included, in bytes.", nil, nil)
}

func (inventory) inodes() *prometheus.Desc {
	return prometheus.NewDesc("cricket_image_store_inodes", "Inodes that images occupy.", nil, nil)
}

// Describe implements prometheus.Collector.
func (i inventory) Describe(ch chan<- *prometheus.Desc) {
	ch <- i.sandboxes()
	ch <- i.containers()
	ch <- i.images()
	ch <- i.bytes()
	ch <- i.inodes()
}

// Collect implements prometheus.Collector.
func (i inventory) Collect(ch chan<- prometheus.Metric) {
	sandboxes, containers := map[string]int{}, map[string]int{}
	for _, r := range i.s.store.Sandboxes.List() {
		sandboxes[r.State().String()]++
	}
	for _, r := range i.s.store.Containers.List() {
		containers[r.State().String()]++
	}
	for state, n := range sandboxes {
		ch <- prometheus.MustNewConstMetric(i.sandboxes(), prometheus.GaugeValue, float64(n), state)
	}
	for state, n := range containers {
		ch <- prometheus.MustNewConstMetric(i.containers(), prometheus.GaugeValue, float64(n), state)
	}
	ch <- prometheus.MustNewConstMetric(i.images(), prometheus.GaugeValue, float64(len(i.s.opts.Images.List())))
	u, err := i.s.opts.Images.Usage()
	if err != nil {
		i.s.log.Debug("size of the image store left out of the metrics", "error", err)
		return
	}
	ch <- prometheus.MustNewConstMetric(i.bytes(), prometheus.GaugeValue, float64(u.Bytes))
	ch <- prometheus.MustNewConstMetric(i.inodes(), prometheus.GaugeValue, float64(u.Inodes))
}
