package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/cricket-cri/cricket/test/specs"
)

// module is what all of its packages begin with.
const module = "github.com/cricket-cri/cricket/"

// event is one line of what go test -json prints.
type event struct {
	Action, Package, Test, Output string
}

// The ends of tests and packages; bench is that of a benchmark which passed.
const (
	passed  = "pass"
	failed  = "fail"
	skipped = "skip"
	bench   = "bench"
)

// report prints the events of go test as go test would, and judges them.
type report struct {
	out, errs io.Writer
	list      specs.List // tests that may skip
	all       bool       // print what passing tests print

	packages map[string]*pack
	queue    []*pack // those that are not printed whole, by their starts

	passed, failed, skipped int
	complaints              []string // about skips
}

func newReport(out, errs io.Writer, list specs.List, all bool) *report {
	return &report{out: out, errs: errs, list: list, all: all, packages: map[string]*pack{}}
}

// read takes events until their end. Lines that are none are printed as they are.
func (r *report) read(events io.Reader) error {
	for b := bufio.NewReader(events); ; {
		line, err := b.ReadBytes('\n')
		var e event
		if json.Unmarshal(line, &e) == nil && e.Action != "" {
			r.take(e)
		} else {
			fmt.Fprint(r.out, string(line))
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (r *report) take(e event) {
	switch {
	case e.Action == "build-output":
		fmt.Fprint(r.errs, e.Output)
		return
	case e.Package == "":
		return // the end of a build, which the package's own tells
	}
	p := r.packages[e.Package]
	if p == nil {
		p = newPack()
		r.packages[e.Package] = p
		r.queue = append(r.queue, p)
	}
	switch e.Action {
	case "run":
		p.tests[e.Test] = &test{}
	case "output":
		p.add(e.Test, e.Output)
	case passed, failed, skipped, bench:
		if e.Test == "" {
			r.packageEnds(p, e)
		} else {
			r.testEnds(p, e)
		}
	}
	r.print(false)
}

func (r *report) testEnds(p *pack, e event) {
	t := p.test(e.Test)
	t.end = e.Action
	switch {
	case e.Action == failed:
		r.failed++
		p.failed++
	case e.Action != skipped:
		r.passed++
	case r.mayskip(e, t.logs):
		r.skipped++
	default:
		r.failed++
		r.complaints = append(r.complaints, fmt.Sprintf("FAILED (skipped, and not in test/gotest/skips.txt) %s %s\n%s",
			e.Package, e.Test, indented(t.logs)))
	}
}

// mayskip looks a test up by each of the lines that it logged: one is why it skipped.
func (r *report) mayskip(e event, logs []string) bool {
	if len(logs) == 0 {
		logs = []string{""}
	}
	for _, l := range logs {
		if r.list.Has(strings.TrimPrefix(e.Package, module) + " " + e.Test + ": " + l) {
			return true
		}
	}
	return false
}

func indented(lines []string) string {
	var b strings.Builder
	for _, l := range lines {
		b.WriteString("  " + l + "\n")
	}
	return b.String()
}

// packageEnds counts a package that has failed by itself: it does not build, say.
func (r *report) packageEnds(p *pack, e event) {
	p.end = e.Action
	delete(r.packages, e.Package)
	if p.end == failed && p.failed == 0 {
		r.failed++
	}
}

// print prints what can be: packages one after the other, as go test does, and of those that
// have not ended nothing, or what the first has come to. The last call has no more to wait for.
func (r *report) print(last bool) {
	for len(r.queue) > 0 {
		p := r.queue[0]
		ended := p.end != "" || last
		if r.all || ended {
			p.print(r.out, r.all)
		}
		if !ended {
			return
		}
		r.queue = r.queue[1:]
	}
}

// finish prints the result and returns the exit code, given that of go test.
func (r *report) finish(code int) int {
	r.print(true)
	for _, c := range r.complaints {
		fmt.Fprint(r.out, c)
	}
	switch {
	case code != 0 && r.failed == 0:
		r.failed++ // go test itself, over its arguments say
	case code == 0 && r.passed == 0 && r.failed == 0:
		fmt.Fprintln(r.out, "FAILED no test has passed")
		r.failed++
	}
	fmt.Fprintf(r.out, "%d passed, %d failed, %d skipped\n", r.passed, r.failed, r.skipped)
	if code == 0 && r.failed > 0 {
		return 1
	}
	return code
}
