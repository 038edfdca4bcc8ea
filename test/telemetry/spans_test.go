package telemetry

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/cricket-cri/cricket/cri/trace/otlptest"
	"github.com/cricket-cri/cricket/test/integration"
)

const (
	run      = "runtime.v1.RuntimeService/RunPodSandbox"
	create   = "runtime.v1.RuntimeService/CreateContainer"
	start    = "runtime.v1.RuntimeService/StartContainer"
	execSync = "runtime.v1.RuntimeService/ExecSync"
	pull     = "runtime.v1.ImageService/PullImage"
)

// steps are the paths of spans that TestPod's pod has made, below the calls of the client.
func steps() []string {
	hull, container, place := "create sandbox", "create container", "make namespaces"
	if integration.InVMs() {
		hull, container, place = "create virtual sandbox", "create virtual container", "claim machine"
	}
	return []string{
		run + " > run pod sandbox > record intent",
		run + " > run pod sandbox > create sandbox > " + hull + " > " + place,
		run + " > run pod sandbox > create sandbox > " + hull + " > connect network",
		run + " > run pod sandbox > record sandbox",
		create + " > create container > resolve configuration",
		create + " > create container > make container > " + container + " > create process",
		create + " > create container > record container",
		start + " > start container > start process",
		pull + " > pull image > resolve reference",
		pull + " > pull image > read manifest",
		pull + " > pull image > fetch layers",
		pull + " > pull image > write record",
	}
}

// checkPod looks at the trace of the calls that TestPod's client made.
func checkPod(t *testing.T, c *collector, pod, container string) {
	t.Helper()
	paths := c.got.Paths(podTrace)
	for _, want := range steps() {
		if s, ok := paths[want]; !ok || s.Start == 0 || s.End < s.Start {
			t.Errorf("%q: %t, %+v", want, ok, s)
		}
	}
	calls := map[string][]otlptest.Span{}
	for _, s := range c.got.Spans(podTrace) {
		if strings.HasPrefix(s.Name, "runtime.v1.") {
			calls[s.Name] = append(calls[s.Name], s)
		}
	}
	for name, codes := range map[string][]string{
		run: {"OK"}, create: {"OK"}, start: {"FAILED_PRECONDITION", "OK"}, execSync: {"OK"}, pull: {"OK", "fails"},
	} {
		var got []string
		for _, s := range calls[name] {
			code := s.Attributes["rpc.response.status_code"]
			if name == pull && code != "OK" {
				code = "fails"
			}
			got = append(got, code)
			if s.Parent != clientSpan {
				t.Errorf("%s lies below %q, not below the client's span", name, s.Parent)
			}
			if said := len(s.Exceptions) > 0; said != (code != "OK") {
				t.Errorf("%s answered %s and records %q", name, code, s.Exceptions)
			}
		}
		if slices.Sort(got); !slices.Equal(got, codes) {
			t.Errorf("spans of %s have the codes %q, want %q", name, got, codes)
		}
	}
	if s := paths[run]; s.Attributes["cricket.sandbox.id"] != pod || s.Attributes["k8s.pod.name"] == "" {
		t.Errorf("the pod's span is %+v", s)
	}
	if s := paths[execSync]; s.Attributes["container.id"] != container {
		t.Errorf("the command's span is %+v", s)
	}
	failed := slices.ContainsFunc(c.got.Spans(podTrace), func(s otlptest.Span) bool {
		return s.Name == "resolve reference" && s.Failed && s.Error != "" && len(s.Exceptions) > 0
	})
	if !failed {
		t.Error("the pull that failed has no step that did")
	}
	if t.Failed() {
		for _, path := range slices.Sorted(maps.Keys(paths)) {
			t.Log(path)
		}
	}
}

// calls are the spans of callEverything by the names of the methods.
func calls(c *collector) map[string][]otlptest.Span {
	spans := map[string][]otlptest.Span{}
	for _, s := range c.got.Spans(callsTrace) {
		if s.Parent == clientSpan {
			_, method, _ := strings.Cut(s.Name, "/")
			spans[method] = append(spans[method], s)
		}
	}
	return spans
}

// checkCalls looks for one span of every method, with the code that it has answered.
func checkCalls(t *testing.T, c *collector, answers map[string]codes.Code) {
	t.Helper()
	spans := calls(c)
	for method, code := range answers {
		of := spans[method]
		if len(of) != 1 {
			t.Errorf("%s has %d spans", method, len(of))
			continue
		}
		got := strings.ReplaceAll(of[0].Attributes["rpc.response.status_code"], "_", "")
		if !strings.EqualFold(got, code.String()) && method != events() {
			t.Errorf("%s answered %s, and its span says %q", method, code, got)
		}
	}
}

// checkStock looks at what the daemon does by itself where pods are machines: it makes a
// template, and of that machines for its stock.
func checkStock(t *testing.T, c *collector) {
	t.Helper()
	if !integration.InVMs() {
		return
	}
	for _, want := range []string{
		"make template > start machine > start machine > spawn QEMU",
		"make template > warm up",
		"make template > save",
		"clone machine > start machine > start machine > spawn QEMU",
		"clone machine > reach guest",
	} {
		integration.Within(t, patient(), want+" comes through the collector", func() bool {
			s, ok := c.got.Paths("")[want]
			return ok && !s.Failed
		})
	}
}
