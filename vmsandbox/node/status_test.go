package node

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/cricket-cri/cricket/vmsandbox/accel"
	"github.com/cricket-cri/cricket/vmsandbox/template"
)

func TestCondition(t *testing.T) {
	tcg := accel.Verdict{Accelerator: accel.TCG, Reason: "no /dev/kvm"}
	for name, c := range map[string]struct {
		status Status
		want   Condition
	}{
		"chosen later": {
			Status{Pool: template.Status{Reason: "the accelerator is being chosen"}},
			Condition{Ready, "Starting", "the accelerator is being chosen", false},
		},
		"no accelerator": {
			Status{known: true, Error: "KVM is demanded"},
			Condition{Ready, "CannotRun", "KVM is demanded", false},
		},
		"boots": {
			Status{known: true, Accelerator: tcg, Pool: template.Status{Reason: "template is being made", Size: 2}},
			Condition{Ready, "NoTemplate", "accelerator tcg; template is being made; 0 of 2 machines wait", true},
		},
		"clones": {
			Status{known: true, Accelerator: tcg, Pool: template.Status{Ready: true, Reason: "template made in 9s", Parked: 1, Size: 2}},
			Condition{Ready, "Ready", "accelerator tcg; template made in 9s; 1 of 2 machines wait", true},
		},
	} {
		if got := c.status.Condition(); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

// gathered reads metrics as the daemon does: names with the values of their label to values.
func gathered(t *testing.T, s Status) map[string]float64 {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	if err := r.Register(Metrics(func() Status { return s })); err != nil {
		t.Fatal(err)
	}
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			all[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue() + m.GetSummary().GetSampleSum()
		}
	}
	return all
}

func TestMetrics(t *testing.T) {
	got := gathered(t, Status{
		known: true, Accelerator: accel.Verdict{Accelerator: accel.TCG, Proven: true, Took: 250 * time.Millisecond},
		Pool: template.Status{Ready: true, Parked: 1, Size: 2, Stats: template.Stats{
			Claims: map[template.Origin]uint64{template.Parked: 5, template.Booted: 1}, Templates: 2, TemplateTime: 9 * time.Second,
			BrokenClones: 3, Spoiled: 4, Refills: 6, RefillTime: 12 * time.Second,
		}},
	})
	for name, want := range map[string]float64{
		"cricket_vm_accelerator_info tcg": 1, "cricket_vm_accelerator_proof_seconds": 0.25,
		"cricket_vm_pool_size": 2, "cricket_vm_pool_parked": 1, "cricket_vm_template_ready": 1,
		"cricket_vm_claims_total parked": 5, "cricket_vm_claims_total cloned": 0, "cricket_vm_claims_total booted": 1,
		"cricket_vm_templates_total": 2, "cricket_vm_template_seconds": 9,
		"cricket_vm_pool_refill_duration_seconds": 12,
		"cricket_vm_machines_broken_total clone":  3, "cricket_vm_machines_broken_total parked": 4,
	} {
		if v, ok := got[name]; !ok || v != want {
			t.Errorf("%s is %v (%v), want %v", name, v, ok, want)
		}
	}
	if early := gathered(t, Status{}); len(early) != 10 {
		t.Errorf("before anything is known: %v", early)
	}
}
