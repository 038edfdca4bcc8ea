package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/cricket-cri/cricket/test/specs"
)

// expected is how many specs are to run on every side: those that labels choose in this
// version of Kubernetes, without those of left-out.txt. Another version has others; ginkgo
// tells how many, with --dry-run too, and a run that has another number fails.
const expected = 303

// results are what a run leaves for the comparison.
type results struct {
	Commit   string       // of the sources that ran
	Date     time.Time    // when the suite began
	Focus    string       // the expression that chose a few specs; empty: all were to run
	Planned  int          // specs that were to run, as ginkgo says at the beginning
	Reasons  []string     // why the run failed, apart from its specs
	Machines uint64       // pods that were virtual machines
	Specs    []specs.Spec // those that were to run, as far as the run has come to them
	Stale    []string     // entries of lists that no spec has
}

// incomplete says why a run on a side does not speak for the suite there.
func (r results) incomplete(s side) (why []string) {
	for _, reason := range r.Reasons {
		why = append(why, "the run failed: "+reason)
	}
	switch n := len(r.Specs); {
	case n == 0:
		why = append(why, "no spec ran")
	case n < r.Planned:
		why = append(why, fmt.Sprintf("the run ended after %d of %d specs", n, r.Planned))
	case r.Focus == "" && n != expected:
		why = append(why, fmt.Sprintf("%d specs ran, %d are expected", n, expected))
	}
	if s.machines && r.Machines == 0 {
		why = append(why, "no pod was a virtual machine")
	}
	return why
}

// when is the date in the words of the table.
func (r results) when() string {
	if r.Date.IsZero() {
		return "unknown"
	}
	return r.Date.UTC().Format("2006-01-02 15:04")
}

// dir is where everything about a side is kept.
func (o options) dir(s side) string { return filepath.Join(o.reports, s.name) }

// file is the one with a side's results.
func (o options) file(s side) string { return filepath.Join(o.dir(s), "results.json") }

func (o options) save(s side, r results) error {
	data, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(o.file(s), data, 0o644)
}

func (o options) load(s side) (r results, err error) {
	data, err := os.ReadFile(o.file(s))
	if err == nil {
		err = json.Unmarshal(data, &r)
	}
	if err != nil {
		return r, fmt.Errorf("read the results on %s: %w", s.name, err)
	}
	return r, nil
}

// chosen are the specs that were to run.
func chosen(all []specs.Spec) (those []specs.Spec) {
	for _, s := range all {
		if s.Chosen() {
			those = append(those, s)
		}
	}
	return those
}
