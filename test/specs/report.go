package specs

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
)

// The states that a spec has besides several kinds of failure.
const (
	Passed  = "passed"
	skipped = "skipped"
	pending = "pending"
)

// Spec is what became of one spec.
type Spec struct {
	Name, State string
	Message     string `json:",omitempty"` // why it failed, or skipped itself
}

// Skipped tells whether the spec did not run, or stopped by itself because of something
// that it needs.
func (s Spec) Skipped() bool { return s.State == skipped || s.State == pending }

// Chosen tells whether the spec was to run. One that was not says nothing about it.
func (s Spec) Chosen() bool { return s.State != pending && (s.State != skipped || s.Message != "") }

// Report is what ginkgo says about a run.
type Report struct {
	Specs []Spec
	// Planned is how many specs were to run when it began. Of those that an interrupted run
	// has not come to, Specs say no more than of those that were never to run.
	Planned int
	// Reasons are why it failed apart from its specs: it was interrupted, or took too long.
	Reasons []string
}

// Read reads the specs of ginkgo's JSON report.
func Read(path string) ([]Spec, error) {
	r, err := ReadReport(path)
	return r.Specs, err
}

// ReadReport reads ginkgo's JSON report.
func ReadReport(path string) (Report, error) {
	r, err := read(path)
	if err != nil {
		return Report{}, fmt.Errorf("read ginkgo's report: %w", err)
	}
	return r, nil
}

func read(path string) (r Report, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return r, err
	}
	var suites []struct {
		SpecialSuiteFailureReasons []string
		PreRunStats                struct{ SpecsThatWillRun int }
		SpecReports                []struct {
			LeafNodeType            string
			ContainerHierarchyTexts []string
			LeafNodeText            string
			State                   string
			Failure                 struct{ Message string }
		}
	}
	if err := json.Unmarshal(data, &suites); err != nil {
		return r, err
	}
	for _, suite := range suites {
		r.Planned += suite.PreRunStats.SpecsThatWillRun
		r.Reasons = append(r.Reasons, suite.SpecialSuiteFailureReasons...)
		for _, spec := range suite.SpecReports {
			s := Spec{State: spec.State, Message: spec.Failure.Message}
			s.Name = strings.TrimSpace(strings.Join(append(spec.ContainerHierarchyTexts, spec.LeafNodeText), " "))
			if s.Name == "" {
				s.Name = spec.LeafNodeType
			}
			// Set-up that passed is no spec; set-up that failed is a failure.
			if spec.LeafNodeType != "It" && s.State == Passed {
				continue
			}
			r.Specs = append(r.Specs, s)
		}
	}
	if len(r.Specs) == 0 {
		return r, errors.New("it has no specs")
	}
	return r, nil
}

// Brief is the beginning of a spec's message, indented to stand below its name.
func (s Spec) Brief() string {
	lines := strings.Split(strings.TrimSpace(s.Message), "\n")
	return strings.Join(lines[:min(len(lines), 12)], "\n  ")
}
