package telemetry

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/cricket-cri/cricket/test/integration"
)

// checkFigures looks at what TestPod has driven.
func checkFigures(p *prometheus) {
	p.t.Helper()
	expressions := []string{
		`cricket_build_info == 1`,
		`cricket_call_duration_seconds_count{method="RunPodSandbox",code="OK"} >= 1`,
		`histogram_quantile(0.5, cricket_call_duration_seconds_bucket{method="RunPodSandbox",code="OK"}) > 0`,
		`cricket_call_duration_seconds_count{method="StartContainer",code="FailedPrecondition"} == 1`,
		`cricket_call_duration_seconds_count{method="ExecSync",code="OK"} == 1`,
		`cricket_step_duration_seconds_count{flow="run pod sandbox",step="create sandbox",ok="true"} >= 1`,
		`cricket_step_duration_seconds_count{flow="create container",step="make container",ok="true"} == 1`,
		`cricket_step_duration_seconds_count{flow="start container",step="start process",ok="true"} == 1`,
		`cricket_step_duration_seconds_count{flow="pull image",step="fetch layers",ok="true"} == 1`,
		`cricket_step_duration_seconds_count{flow="pull image",step="resolve reference",ok="false"} == 1`,
		`cricket_image_pull_duration_seconds_count{code="OK"} == 1`,
		`sum(cricket_image_pulls_total{outcome!="ok"}) >= 1 and sum(cricket_image_pulls_total{outcome="ok"}) == 1`,
		`cricket_image_pull_bytes_total > 1e5`,
		`cricket_image_pulls_active == 0 and cricket_image_pull_active_layers == 0`,
		`cricket_images == 1 and cricket_image_store_bytes > 1e5`,
		`cricket_sandboxes{state="SANDBOX_READY"} == 1`,
		`cricket_containers{state="CONTAINER_RUNNING"} == 1`,
		`cricket_monitor_restarts_total == 0`,
		`cricket_trace_spans_sent_total > 0 and cricket_trace_spans_failed_total == 0`,
		`process_resident_memory_bytes{job="cricket"} > 1e6 and go_goroutines{job="cricket"} > 1`,
	}
	if integration.InVMs() {
		expressions = append(expressions,
			`cricket_vm_accelerator_info{accelerator!=""} == 1`,
			`cricket_vm_template_ready == 1 and cricket_vm_templates_total >= 1 and cricket_vm_template_seconds > 0`,
			`sum(cricket_vm_claims_total) >= 1`,
			`cricket_vm_pool_size == 1`,
			`cricket_vm_pool_refill_duration_seconds_count >= 1`,
		)
	}
	for _, e := range expressions {
		p.holds(e)
	}
}

// checkCounts looks for every method, with the code that it has answered.
func checkCounts(p *prometheus, answers map[string]codes.Code) {
	p.t.Helper()
	for method, code := range answers {
		which := fmt.Sprintf("method=%q,code=%q", method, code)
		if method == events() {
			which = fmt.Sprintf("method=%q", method)
		}
		p.holds("cricket_call_duration_seconds_count{" + which + "} >= 1")
	}
}

// checkScrapes looks at what Prometheus thinks of its target and of what it is told there.
func checkScrapes(t *testing.T, p *prometheus) {
	t.Helper()
	type targets struct {
		ActiveTargets []struct{ Health, LastError, ScrapeURL string }
	}
	of := ask[targets](p, "targets").ActiveTargets
	if len(of) != 1 || of[0].Health != "up" || of[0].LastError != "" || !strings.HasSuffix(of[0].ScrapeURL, "/metrics") {
		t.Errorf("the targets are %+v", of)
	}
	type about struct{ Type, Help string }
	all := ask[map[string][]about](p, "metadata")
	for _, name := range []string{"cricket_call_duration_seconds", "cricket_sandboxes", "cricket_image_pull_bytes_total"} {
		if all[name] == nil {
			t.Errorf("Prometheus knows no metric %s", name)
		}
	}
	for name, entries := range all {
		for _, e := range entries {
			if strings.HasPrefix(name, "cricket_") && (e.Help == "" || e.Type == "unknown") {
				t.Errorf("%s is a %s: %q", name, e.Type, e.Help)
			}
		}
	}
	if log := p.log(); strings.Contains(log, "scrape") {
		t.Errorf("Prometheus complains:\n%s", log)
	}
}
