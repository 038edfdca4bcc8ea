package main

import (
	"testing"

	"github.com/cricket-cri/cricket/test/specs"
)

func TestJudge(t *testing.T) {
	all := []specs.Spec{
		{Name: "a", State: "passed"},
		{Name: "b", State: "failed"},
		{Name: "c", State: "timedout"},
		{Name: "d", State: "panicked"},
		{Name: "Container benchmark about basic operations", State: "skipped"},
		{Name: "Something that nobody listed", State: "skipped"},
	}
	r, err := judge(all, false, "")
	if want := (result{passed: 1, failed: 4, skipped: 1}); err != nil || r != want {
		t.Errorf("judged %v (%v), want %v", r, err, want)
	}
	r, err = judge(all, true, "")
	if want := (result{passed: 1, failed: 3, skipped: 2}); err != nil || r != want {
		t.Errorf("judged chosen specs %v (%v), want %v", r, err, want)
	}
	all = []specs.Spec{
		{Name: "x refused", State: "failed", Message: "host network: see docs/limitations.md"},
		{Name: "x broken", State: "failed", Message: "timed out"},
		{Name: "x passed", State: "passed"},
		{Name: "y", State: "failed", Message: "see docs/limitations.md"},
	}
	if r, err := judge(all, false, "x"); err != nil || r != (result{failed: 3, refused: 1}) {
		t.Errorf("judged refusals %v (%v)", r, err)
	}
	r = result{passed: 1, failed: 3, skipped: 2}
	if got, want := r.String(), "1 passed, 3 failed, 2 skipped"; got != want {
		t.Errorf("the closing line is %q, want %q", got, want)
	}
}
