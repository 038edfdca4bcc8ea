package main

import (
	_ "embed"
	"fmt"
	"slices"

	"github.com/cricket-cri/cricket/test/specs"
)

// leftOut lists the specs that do not run on any side.
//
//go:embed left-out.txt
var leftOut string

// exceptionsVM lists the specs that virtual machines have to fail.
//
//go:embed exceptions-vm.txt
var exceptionsVM string

// lists are what is known of specs that turn out differently on a side.
type lists struct {
	leftOut, exceptions specs.List
}

func readLists(s side) (l lists, err error) {
	if l.leftOut, err = specs.ParseList(leftOut); err != nil {
		return l, err
	}
	l.exceptions, err = specs.ParseList(s.exceptions)
	return l, err
}

// stale are the entries that no spec has, or none that was to run where it has to fail.
func (l lists) stale(all []specs.Spec) (entries []string) {
	find := func(l specs.List, among []specs.Spec) {
		for _, e := range l {
			if !slices.ContainsFunc(among, func(s specs.Spec) bool { return e.Expr.MatchString(s.Name) }) {
				entries = append(entries, e.Expr.String())
			}
		}
	}
	find(l.leftOut, all)
	find(l.exceptions, chosen(all))
	return entries
}

// total counts what became of specs.
type total struct {
	passed, failed, skipped, excepted int
}

func (t total) String() string {
	text := fmt.Sprintf("%d passed, %d failed, %d skipped", t.passed, t.failed, t.skipped)
	if t.excepted > 0 {
		text += fmt.Sprintf(", %d failed as they have to", t.excepted)
	}
	return text
}

// count judges specs and tells say of those that are not as they should be.
func (l lists) count(all []specs.Spec, say func(string, ...any)) (t total) {
	for _, s := range all {
		passed, excepted := s.State == specs.Passed, l.exceptions.Has(s.Name)
		switch {
		case s.Skipped():
			t.skipped++
			say("SKIPPED, and not in left-out.txt: %s\n  %s", s.Name, s.Brief())
		case passed && excepted:
			t.failed++
			say("PASSED, though it is an exception: %s", s.Name)
		case passed:
			t.passed++
		case excepted:
			t.excepted++
		default:
			t.failed++
			say("FAILED %s\n  %s", s.Name, s.Brief())
		}
	}
	return t
}

// report prints what became of a side's specs and returns the exit code. Only what is left
// out may be skipped.
func (l lists) report(s side, r results) int {
	t := l.count(r.Specs, say)
	bad := r.incomplete(s)
	for _, e := range r.Stale {
		bad = append(bad, "the lists name a spec that is not there: "+e)
	}
	for _, b := range bad {
		say("FAILED %s", b)
	}
	say("%s", t)
	if t.passed > 0 && t.failed == 0 && t.skipped == 0 && len(bad) == 0 {
		return 0
	}
	return specsFailed
}
