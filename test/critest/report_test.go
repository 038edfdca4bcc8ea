package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestJudge(t *testing.T) {
	specs := []spec{
		{name: "a", state: "passed"},
		{name: "b", state: "failed"},
		{name: "c", state: "timedout"},
		{name: "d", state: "panicked"},
		{name: "Container benchmark about basic operations", state: "skipped"},
		{name: "Something that nobody listed", state: "skipped"},
	}
	r, err := judge(specs, false, "")
	if want := (result{passed: 1, failed: 4, skipped: 1}); err != nil || r != want {
		t.Errorf("judged %v (%v), want %v", r, err, want)
	}
	r, err = judge(specs, true, "")
	if want := (result{passed: 1, failed: 3, skipped: 2}); err != nil || r != want {
		t.Errorf("judged chosen specs %v (%v), want %v", r, err, want)
	}
	specs = []spec{
		{name: "x refused", state: "failed", message: "host network: see docs/limitations.md"},
		{name: "x broken", state: "failed", message: "timed out"},
		{name: "x passed", state: "passed"},
		{name: "y", state: "failed", message: "see docs/limitations.md"},
	}
	if r, err := judge(specs, false, "x"); err != nil || r != (result{failed: 3, refused: 1}) {
		t.Errorf("judged refusals %v (%v)", r, err)
	}
	r = result{passed: 1, failed: 3, skipped: 2}
	if got, want := r.String(), "1 passed, 3 failed, 2 skipped"; got != want {
		t.Errorf("the closing line is %q, want %q", got, want)
	}
}

func TestParseSkips(t *testing.T) {
	there := filepath.Join(t.TempDir(), "there")
	if err := os.WriteFile(there, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	re, err := parseSkips("# comment\n@without " + there + "\nfirst\n@without /no/such/file\nsecond # why\n@always\nthird\n")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"the first": false, "the second": true, "the third": true, "": true, "other": false} {
		if got := re.MatchString(name); got != want {
			t.Errorf("may %q skip: %v, want %v", name, got, want)
		}
	}
}

func TestReadReport(t *testing.T) {
	path := filepath.Join(t.TempDir(), "report.json")
	const report = `[{"SpecReports": [
		{"LeafNodeType": "BeforeSuite", "State": "passed"},
		{"LeafNodeType": "It", "ContainerHierarchyTexts": ["[k8s.io] Container"], "LeafNodeText": "starts", "State": "passed"},
		{"LeafNodeType": "AfterSuite", "State": "failed", "Failure": {"Message": "why"}}]}]`
	if err := os.WriteFile(path, []byte(report), 0o644); err != nil {
		t.Fatal(err)
	}
	specs, err := readReport(path)
	if err != nil || len(specs) != 2 {
		t.Fatalf("read %d specs (%v), want 2", len(specs), err)
	}
	if specs[0].name != "[k8s.io] Container starts" || specs[1].state != "failed" || specs[1].message != "why" {
		t.Errorf("read %+v", specs)
	}
	if err := os.WriteFile(path, []byte(`[{"SpecReports": []}]`), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := readReport(path); err == nil {
		t.Error("a report without specs was accepted")
	}
}
