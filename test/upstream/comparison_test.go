package main

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/cricket-cri/cricket/test/specs"
	"github.com/cricket-cri/cricket/vmsandbox/node"
	"github.com/cricket-cri/cricket/vmsandbox/template"
)

// suite has the whole suite passed, but for the last specs, which were not come to.
func suite(missing int) results {
	r := results{Planned: expected, Machines: 200}
	for i := range expected - missing {
		r.Specs = append(r.Specs, specs.Spec{Name: fmt.Sprintf("spec %03d", i), State: specs.Passed})
	}
	return r
}

// with changes results.
func (r results) with(change func(*results)) results {
	change(&r)
	return r
}

// TestSameSpecs: what is compared are whole runs of the same specs.
func TestSameSpecs(t *testing.T) {
	focused, none := ran("passed", "passed"), ran()
	for name, c := range map[string]struct {
		kernel, vm, containerd results
		want                   []string
	}{
		"the whole suite": {suite(0), suite(0), suite(0), nil},
		"a few specs":     {focused, focused, focused, nil},
		"a mistyped focus": {none, none, none, []string{
			"on kernel no spec ran", "on vm no spec ran", "on containerd no spec ran",
		}},
		"containerd was ended": {suite(0), suite(0), suite(2), []string{
			"on containerd the run ended after 301 of 303 specs", "on containerd (absent) spec 301", "on containerd (absent) spec 302",
		}},
		"containerd was ended, and says so": {focused, focused, focused.with(func(r *results) { r.Reasons = []string{"Interrupted by User"} }), []string{
			"on containerd the run failed: Interrupted by User",
		}},
		"Cricket was ended": {ran("passed"), focused, focused, []string{"on kernel (absent) b"}},
		"all have lost one": {
			suite(1).with(func(r *results) { r.Planned-- }), suite(1).with(func(r *results) { r.Planned-- }), suite(1).with(func(r *results) { r.Planned-- }),
			[]string{"on kernel 302 specs ran, 303 are expected", "on vm 302 specs ran, 303 are expected", "on containerd 302 specs ran, 303 are expected"},
		},
		"other specs": {ran("passed", ""), ran("passed", ""), ran("", "passed"), []string{
			"on kernel (absent) b", "on vm (absent) b", "on containerd (absent) a",
		}},
		"set-up failed on one side": {focused, ran("passed", "passed", "failed"), focused, []string{
			"on kernel (absent) c", "on containerd (absent) c",
		}},
		"no machines": {suite(0), suite(0).with(func(r *results) { r.Machines = 0 }), suite(0), []string{
			"on vm no pod was a virtual machine",
		}},
		"no machines where there are none": {focused.with(func(r *results) { r.Machines = 0 }), focused, focused, nil},
	} {
		columns := []column{columnOf(t, sides()[0], c.kernel), columnOf(t, sides()[1], c.vm), columnOf(t, sides()[2], c.containerd)}
		if got := problems(columns); !slices.Equal(got, c.want) {
			t.Errorf("%s: the problems are %q, want %q", name, got, c.want)
		}
	}
}

func TestReport(t *testing.T) {
	vm := sides()[1]
	for name, c := range map[string]struct {
		r    results
		want int
	}{
		"all passed":  {suite(0), 0},
		"one failed":  {ran("passed", "failed"), specsFailed},
		"ended":       {suite(3), specsFailed},
		"no machines": {suite(0).with(func(r *results) { r.Machines = 0 }), specsFailed},
		"stale":       {suite(0).with(func(r *results) { r.Stale = []string{"renamed"} }), specsFailed},
		"nothing":     {ran(), specsFailed},
	} {
		if got := (lists{}).report(vm, c.r); got != c.want {
			t.Errorf("%s: exit code %d, want %d", name, got, c.want)
		}
	}
}

func TestUnexpected(t *testing.T) {
	for code, want := range map[int]bool{0: false, specsFailed: false, 1: true, 2: true, 130: true} {
		err := exec.Command("sh", "-c", fmt.Sprintf("exit %d", code)).Run()
		if got := unexpected(err); got != want {
			t.Errorf("a run that exits with %d is unexpected: %v, want %v", code, got, want)
		}
	}
	if !unexpected(exec.ErrNotFound) {
		t.Error("a run that was never started is taken for specs that failed")
	}
}

// TestClaims reads what the daemon writes.
func TestClaims(t *testing.T) {
	var status node.Status
	status.Pool.Stats.Claims = map[template.Origin]uint64{template.Parked: 2, template.Booted: 5}
	text, err := json.Marshal(status)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := claims(string(text)); err != nil || n != 7 {
		t.Errorf("counted %d machines (%v), want 7", n, err)
	}
	if n, err := claims("{}"); err != nil || n != 0 {
		t.Errorf("counted %d machines (%v), want none", n, err)
	}
	if _, err := claims(""); err == nil {
		t.Error("a daemon that says nothing of machines was understood")
	}
}

func TestResultsStay(t *testing.T) {
	o, s := options{reports: t.TempDir()}, side{}
	want := suite(300)
	want.Commit, want.Date, want.Reasons = "abc", time.Date(2026, 11, 30, 16, 5, 0, 0, time.UTC), []string{"why"}
	if err := o.save(s, want); err != nil {
		t.Fatal(err)
	}
	got, err := o.load(s)
	if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("loaded %+v (%v), want %+v", got, err, want)
	}
	if got.when() != "2026-11-30 16:05" || (results{}).when() != "unknown" {
		t.Errorf("the dates are %s and %s", got.when(), results{}.when())
	}
}
