package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/cricket-cri/cricket/test/specs"
)

func TestEveryEntryHasAReason(t *testing.T) {
	for _, s := range sides() {
		l, err := readLists(s)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range slices.Concat(l.leftOut, l.exceptions) {
			if e.Reason == "" {
				t.Errorf("on %s, %s is listed without a reason", s.name, e.Expr)
			}
		}
	}
}

func list(t *testing.T, text string) specs.List {
	t.Helper()
	l, err := specs.ParseList(text)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestCount(t *testing.T) {
	l := lists{exceptions: list(t, "cannot # because")}
	var said []string
	got := l.count([]specs.Spec{
		{Name: "fine", State: "passed"},
		{Name: "broken", State: "failed"},
		{Name: "hangs", State: "timedout"},
		{Name: "needs more", State: "skipped", Message: "two nodes"},
		{Name: "cannot", State: "failed"},
		{Name: "cannot, but does", State: "passed"},
	}, func(f string, a ...any) { said = append(said, f) })
	if want := (total{passed: 1, failed: 3, skipped: 1, excepted: 1}); got != want {
		t.Errorf("counted %+v, want %+v", got, want)
	}
	if len(said) != 4 {
		t.Errorf("told of %q, want of four specs", said)
	}
}

func TestStale(t *testing.T) {
	l := lists{leftOut: list(t, "two nodes # x\nrenamed # x\n"), exceptions: list(t, "cannot # x\ntwo nodes # x\n")}
	got := l.stale([]specs.Spec{{Name: "two nodes", State: "skipped"}, {Name: "cannot", State: "failed"}})
	if want := []string{"renamed", "two nodes"}; !slices.Equal(got, want) {
		t.Errorf("stale are %q, want %q", got, want)
	}
}

// ran are the results of a few specs, called a, b and so on, in the given states; those
// without a state are absent.
func ran(states ...string) results {
	r := results{Focus: "[a-e]", Machines: 1}
	for i, state := range states {
		if state != "" {
			r.Specs = append(r.Specs, specs.Spec{Name: string(rune('a' + i)), State: state})
		}
	}
	r.Planned = len(r.Specs)
	return r
}

func columnOf(t *testing.T, s side, r results) column {
	t.Helper()
	c, err := newColumn(s, r)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestProblems(t *testing.T) {
	var columns []column
	for i, states := range [][]string{
		{"passed", "failed", "failed", "passed", "skipped"},
		{"passed", "failed", "passed", "failed", ""},
		{"passed", "failed", "passed", "passed", "passed"},
	} {
		columns = append(columns, columnOf(t, sides()[i], ran(states...)))
	}
	columns[1].lists.exceptions = list(t, "d # no such thing in a machine\nc # nor this\n")
	got := strings.Join(problems(columns), "\n")
	want := strings.Join([]string{
		"on kernel (failed) c",
		"on kernel (skipped, and not in left-out.txt) e",
		"on vm (passed, though it is an exception) c",
		"on vm (absent) e",
	}, "\n")
	if got != want {
		t.Errorf("the problems are\n%s\nwant\n%s", got, want)
	}
}
