package specs

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestParseList(t *testing.T) {
	there := filepath.Join(t.TempDir(), "there")
	if err := os.WriteFile(there, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	list, err := ParseList("# comment\n@without " + there + "\nfirst\n@without /no/such/file\nsecond # why\n@always\nthird\n")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"the first": false, "the second": true, "the third": true, "": false, "other": false} {
		if got := list.Has(name); got != want {
			t.Errorf("the list has %q: %v, want %v", name, got, want)
		}
	}
}

func TestConditions(t *testing.T) {
	t.Setenv("CRICKET_TEST_SET", "vm")
	t.Setenv("CRICKET_TEST_EMPTY", "")
	for condition, want := range map[string]bool{
		"env CRICKET_TEST_SET=vm": true, "env CRICKET_TEST_SET=": false, "env CRICKET_TEST_SET!=vm": false, "env CRICKET_TEST_SET!=": true,
		"env CRICKET_TEST_EMPTY=": true, "env CRICKET_TEST_NOT_SET=": true, "env CRICKET_TEST_NOT_SET!=vm": true, "always": true,
	} {
		list, err := ParseList("@" + condition + "\nname\n")
		if got := list.Has("name"); err != nil || got != want {
			t.Errorf("@%s: %v (%v), want %v", condition, got, err, want)
		}
	}
	for _, wrong := range []string{"@env CRICKET_TEST_SET", "@with /", "@"} {
		if _, err := ParseList(wrong + "\nname\n"); err == nil {
			t.Errorf("%s was accepted", wrong)
		}
	}
}

func TestRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "report.json")
	const report = `[{"PreRunStats": {"TotalSpecs": 3, "SpecsThatWillRun": 2}, "SpecialSuiteFailureReasons": ["Interrupted by User"],
		"SpecReports": [
		{"LeafNodeType": "BeforeSuite", "State": "passed"},
		{"LeafNodeType": "It", "ContainerHierarchyTexts": ["[k8s.io] Container"], "LeafNodeText": "starts", "State": "passed"},
		{"LeafNodeType": "AfterSuite", "State": "failed", "Failure": {"Message": "why"}}]}]`
	if err := os.WriteFile(path, []byte(report), 0o644); err != nil {
		t.Fatal(err)
	}
	all, err := Read(path)
	if err != nil || len(all) != 2 {
		t.Fatalf("read %d specs (%v), want 2", len(all), err)
	}
	if all[0].Name != "[k8s.io] Container starts" || all[1].State != "failed" || all[1].Message != "why" {
		t.Errorf("read %+v", all)
	}
	if r, err := ReadReport(path); err != nil || r.Planned != 2 || !slices.Equal(r.Reasons, []string{"Interrupted by User"}) || !slices.Equal(r.Specs, all) {
		t.Errorf("read %+v (%v)", r, err)
	}
	if err := os.WriteFile(path, []byte(`[{"SpecReports": []}]`), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(path); err == nil {
		t.Error("a report without specs was accepted")
	}
}
