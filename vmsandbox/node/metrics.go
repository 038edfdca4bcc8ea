package node

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/cricket-cri/cricket/vmsandbox/template"
)

// figures are read from a status when somebody asks for them.
type figures struct {
	status func() Status

	accelerator, proof, size, parked, ready, claims, templates, making, broken, refill *prometheus.Desc
}

// Metrics tell Prometheus what status says. Status is called whenever they are read and
// must not wait.
func Metrics(status func() Status) prometheus.Collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("cricket_vm_"+name, help, labels, nil)
	}
	return figures{
		status:      status,
		accelerator: desc("accelerator_info", "1 for the accelerator in use; missing until it is chosen.", "accelerator"),
		proof:       desc("accelerator_proof_seconds", "How long the boot took that decided on the accelerator."),
		size:        desc("pool_size", "Machines that are to wait for pods."),
		parked:      desc("pool_parked", "Machines that wait for pods."),
		ready:       desc("template_ready", "1 if machines are cloned, or booted by configuration; 0 while there is no template."),
		claims:      desc("claims_total", "Machines that pods got, by where they came from.", "origin"),
		templates:   desc("templates_total", "Templates that were made."),
		making:      desc("template_seconds", "How long making the last template took."),
		refill:      desc("pool_refill_duration_seconds", "How long machines for the stock took, from the begin to where they wait."),
		broken:      desc("machines_broken_total", "Machines that were thrown away: clones that did not come to life, and parked ones that died.", "kind"),
	}
}

// Describe implements prometheus.Collector.
func (f figures) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		f.accelerator, f.proof, f.size, f.parked, f.ready, f.claims, f.templates, f.making, f.broken, f.refill,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (f figures) Collect(ch chan<- prometheus.Metric) {
	s := f.status()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	count := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	if s.Accelerator.Accelerator != "" {
		gauge(f.accelerator, 1, s.Accelerator.Accelerator)
	}
	if s.Accelerator.Proven {
		gauge(f.proof, s.Accelerator.Took.Seconds())
	}
	gauge(f.size, float64(s.Pool.Size))
	gauge(f.parked, float64(s.Pool.Parked))
	ready := 0.0
	if s.Pool.Ready {
		ready = 1
	}
	gauge(f.ready, ready)
	stats := s.Pool.Stats
	for _, origin := range []template.Origin{template.Parked, template.Cloned, template.Booted} {
		count(f.claims, stats.Claims[origin], string(origin))
	}
	count(f.templates, stats.Templates)
	if stats.Templates > 0 {
		gauge(f.making, stats.TemplateTime.Seconds())
	}
	ch <- prometheus.MustNewConstSummary(f.refill, stats.Refills, stats.RefillTime.Seconds(), nil)
	count(f.broken, stats.BrokenClones, "clone")
	count(f.broken, stats.Spoiled, "parked")
}
