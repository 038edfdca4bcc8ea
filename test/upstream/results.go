package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cricket-cri/cricket/test/specs"
)

// results are what a run leaves for the comparison.
type results struct {
	Specs []specs.Spec // those that were to run
	Stale []string     // entries of lists that no spec has
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
