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

// Read reads ginkgo's JSON report.
func Read(path string) ([]Spec, error) {
	all, err := read(path)
	if err != nil {
		return nil, fmt.Errorf("read ginkgo's report: %w", err)
	}
	return all, nil
}

func read(path string) ([]Spec, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var suites []struct {
		SpecReports []struct {
			LeafNodeType            string
			ContainerHierarchyTexts []string
			LeafNodeText            string
			State                   string
			Failure                 struct{ Message string }
		}
	}
	if err := json.Unmarshal(data, &suites); err != nil {
		return nil, err
	}
	var all []Spec
	for _, suite := range suites {
		for _, r := range suite.SpecReports {
			s := Spec{State: r.State, Message: r.Failure.Message}
			s.Name = strings.TrimSpace(strings.Join(append(r.ContainerHierarchyTexts, r.LeafNodeText), " "))
			if s.Name == "" {
				s.Name = r.LeafNodeType
			}
			// Set-up that passed is no spec; set-up that failed is a failure.
			if r.LeafNodeType != "It" && s.State == Passed {
				continue
			}
			all = append(all, s)
		}
	}
	if len(all) == 0 {
		return nil, errors.New("it has no specs")
	}
	return all, nil
}

// Brief is the beginning of a spec's message, indented to stand below its name.
func (s Spec) Brief() string {
	lines := strings.Split(strings.TrimSpace(s.Message), "\n")
	return strings.Join(lines[:min(len(lines), 12)], "\n  ")
}
