package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/cricket-cri/cricket/cmd/cribench/figures"
	"github.com/cricket-cri/cricket/cmd/cribench/report"
)

// expectations reads the bounds before anything is measured.
func (o options) expectations() ([]report.Expectation, error) {
	if o.expect == "" {
		return nil, nil
	}
	f, err := os.Open(o.expect)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	all, err := report.ReadExpectations(f)
	if err == nil && len(all) == 0 {
		err = errors.New("it expects nothing")
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o.expect, err)
	}
	return all, nil
}

// write writes the run in every form that was asked for. What was expected and is not so is
// an error.
func (o options) write(out io.Writer, run *figures.Run, expected []report.Expectation) error {
	run.Summarize()
	outcomes := report.Hold(run, expected)
	plots, err := o.writePlots(run)
	if err != nil {
		return err
	}
	if o.json != "" && o.json != "-" {
		if err := writeFile(o.json, run.Write); err != nil {
			return err
		}
	}
	if o.markdown != "" {
		err := writeFile(o.markdown, func(w io.Writer) error {
			if err := o.writeOutcomes(w, outcomes); err != nil {
				return err
			}
			return report.Markdown(w, run, plots)
		})
		if err != nil {
			return err
		}
	}
	if o.json == "-" {
		err = run.Write(out)
	} else {
		err = report.Table(out, run)
	}
	if err != nil {
		return err
	}
	for _, outcome := range outcomes {
		fmt.Fprintln(os.Stderr, outcome)
	}
	if n := report.Missed(outcomes); n > 0 {
		return fmt.Errorf("%d of %d expectations of %s are missed", n, len(outcomes), o.expect)
	}
	return nil
}

func (o options) writeOutcomes(w io.Writer, outcomes []report.Outcome) error {
	if len(outcomes) == 0 {
		return nil
	}
	fmt.Fprint(w, "### What is expected\n\n")
	if err := report.MarkdownOutcomes(w, outcomes); err != nil {
		return err
	}
	_, err := fmt.Fprint(w, "\n### What was measured\n\n")
	return err
}

// writePlots draws every section that has distributions, and returns links to the pictures
// from where the Markdown is.
func (o options) writePlots(run *figures.Run) (map[string]string, error) {
	links := map[string]string{}
	if o.plots == "" {
		return links, nil
	}
	if err := os.MkdirAll(o.plots, 0o755); err != nil {
		return nil, err
	}
	for _, section := range run.Sections() {
		path := filepath.Join(o.plots, section+".svg")
		drawn := false
		err := writeFile(path, func(w io.Writer) (err error) {
			drawn, err = report.Plot(w, run, section)
			return err
		})
		if err == nil && !drawn {
			err = os.Remove(path)
		}
		if err != nil {
			return nil, err
		}
		if drawn {
			links[section] = path
			if rel, err := filepath.Rel(filepath.Dir(o.markdown), path); err == nil {
				links[section] = filepath.ToSlash(rel)
			}
		}
	}
	return links, nil
}

func writeFile(path string, write func(io.Writer) error) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return write(f)
}
