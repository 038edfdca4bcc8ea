package cri

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/cricket-cri/cricket/runtime/image"
)

// pullFigures are read from a status when somebody asks for them.
type pullFigures struct {
	status func() image.Status

	active, fetched, expected, layers, bytes, pulls, retries, resumed, failovers *prometheus.Desc
}

// PullMetrics tell Prometheus what status says of pulls. Status is called whenever they
// are read and must not wait.
func PullMetrics(status func() image.Status) prometheus.Collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("cricket_image_pull"+name, help, labels, nil)
	}
	return pullFigures{
		status:    status,
		active:    desc("s_active", "Pulls under way."),
		fetched:   desc("_active_bytes", "Bytes that the pulls under way have of the layers they fetch."),
		expected:  desc("_active_expected_bytes", "Bytes of the layers that the pulls under way fetch, as far as they know them."),
		layers:    desc("_active_layers", "Layers that the pulls under way have yet to bring in."),
		bytes:     desc("_bytes_total", "Bytes received from registries."),
		pulls:     desc("s_total", "Pulls that have ended, by outcome: ok, or the kind of error.", "outcome"),
		retries:   desc("_retries_total", "Requests to registries that were repeated."),
		resumed:   desc("_resumed_total", "Layers that were taken up again in the middle."),
		failovers: desc("_failovers_total", "Times that another endpoint of a registry was asked because one failed."),
	}
}

// Describe implements prometheus.Collector.
func (f pullFigures) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		f.active, f.fetched, f.expected, f.layers, f.bytes, f.pulls, f.retries, f.resumed, f.failovers,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (f pullFigures) Collect(ch chan<- prometheus.Metric) {
	s := f.status()
	gauge := func(d *prometheus.Desc, v int64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v))
	}
	count := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	var fetched, expected, layers int64
	for _, p := range s.Pulls {
		fetched, expected, layers = fetched+p.Fetched, expected+p.Total, layers+int64(p.Layers-p.Done)
	}
	gauge(f.active, int64(len(s.Pulls)))
	gauge(f.fetched, fetched)
	gauge(f.expected, expected)
	gauge(f.layers, layers)
	count(f.bytes, s.Bytes)
	count(f.retries, s.Retries)
	count(f.resumed, s.Resumed)
	count(f.failovers, s.Failovers)
	for outcome, n := range s.Ended {
		count(f.pulls, n, outcome)
	}
}
