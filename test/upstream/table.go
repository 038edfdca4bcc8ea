package main

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/cricket-cri/cricket/test/cluster"
	"github.com/cricket-cri/cricket/test/specs"
)

// column is one side of the comparison.
type column struct {
	side
	results results
	lists   lists
	specs   map[string]specs.Spec // those of the results by name
}

// absent is the state of a spec that a side has no result of.
const absent = "absent"

// compare prints the results of all sides beside each other. The exit code says whether
// all have run the same specs and Cricket passes what containerd passes.
func (o options) compare() (int, error) {
	var columns []column
	for _, s := range sides() {
		r, err := o.load(s)
		if err != nil {
			return 1, err
		}
		c, err := newColumn(s, r)
		if err != nil {
			return 1, err
		}
		columns = append(columns, c)
	}
	totals(columns)
	footnotes(columns)
	differences(columns)
	bad := problems(columns)
	for _, p := range bad {
		say("FAILED %s", p)
	}
	if len(bad) > 0 {
		return 1, nil
	}
	say("Cricket passes what containerd passes, besides the exceptions")
	return 0, nil
}

func newColumn(s side, r results) (c column, err error) {
	c = column{side: s, results: r, specs: map[string]specs.Spec{}}
	for _, spec := range r.Specs {
		c.specs[spec.Name] = spec
	}
	c.lists, err = readLists(s)
	return c, err
}

func totals(columns []column) {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	defer w.Flush()
	fmt.Fprintln(w, "\nsuite on\tpassed\tfailed\tskipped\texceptions\tcommit\tdate (UTC)")
	for _, c := range columns {
		t := c.lists.count(slices.Collect(maps.Values(c.specs)), func(string, ...any) {})
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%s\t%s\n", c.name, t.passed, t.failed, t.skipped, t.excepted,
			cmp.Or(c.results.Commit, "unknown"), c.results.when())
	}
}

// footnotes say what a column with machines does not mean.
func footnotes(columns []column) {
	for _, c := range columns {
		if !c.machines {
			continue
		}
		say("\non %s %d pods were machines; pods with the host's namespaces run on the shared kernel, which no "+
			"hypervisor-based runtime shares with a machine: docs/limitations.md", c.name, c.results.Machines)
	}
}

// differences prints the specs that do not turn out alike on all sides.
func differences(columns []column) {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	defer w.Flush()
	fmt.Fprintln(w)
	for _, c := range columns {
		fmt.Fprintf(w, "%s\t", c.name)
	}
	fmt.Fprintln(w, "spec")
	for _, name := range names(columns) {
		var states []string
		for _, c := range columns {
			states = append(states, c.state(name))
		}
		if len(slices.Compact(slices.Clone(states))) == 1 {
			continue
		}
		fmt.Fprintf(w, "%s\t%s%s\n", strings.Join(states, "\t"), name, reason(columns, name))
	}
}

// names are those of all specs that any side has, in order.
func names(columns []column) []string {
	all := map[string]bool{}
	for _, c := range columns {
		for name := range c.specs {
			all[name] = true
		}
	}
	return slices.Sorted(maps.Keys(all))
}

// state is a spec's on a side, in the words of the table.
func (c column) state(name string) string {
	s, ok := c.specs[name]
	switch {
	case !ok:
		return absent
	case s.State != specs.Passed && !s.Skipped() && c.lists.exceptions.Has(name):
		return "excepted"
	default:
		return s.State
	}
}

// reason is why a spec is an exception on one of the sides.
func reason(columns []column, name string) string {
	for _, c := range columns {
		if e := c.lists.exceptions.Find(name); e != nil {
			return ": " + e.Reason
		}
	}
	return ""
}

// problems are runs that do not stand for the suite, specs that not every side has run, where
// a side of Cricket is worse than containerd, and lists that do not tell the truth.
func problems(columns []column) (bad []string) {
	i := slices.IndexFunc(columns, func(c column) bool { return c.runtime == cluster.Containerd })
	peer := columns[i]
	for _, c := range columns {
		for _, why := range c.results.incomplete(c.side) {
			bad = append(bad, "on "+c.name+" "+why)
		}
		for _, e := range c.results.Stale {
			bad = append(bad, "the lists name a spec that is not there: "+e)
		}
		for _, name := range names(columns) {
			state, excepted := c.state(name), c.lists.exceptions.Has(name)
			switch {
			case state == absent:
				bad = append(bad, "on "+c.name+" (absent) "+name)
			case c.specs[name].Skipped():
				bad = append(bad, "on "+c.name+" (skipped, and not in left-out.txt) "+name)
			case state == specs.Passed && excepted:
				bad = append(bad, "on "+c.name+" (passed, though it is an exception) "+name)
			case peer.state(name) == specs.Passed && state != specs.Passed && !excepted:
				bad = append(bad, "on "+c.name+" ("+state+") "+name)
			}
		}
	}
	return bad
}
