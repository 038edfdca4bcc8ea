package main

import (
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
	lists lists
	specs map[string]specs.Spec // by name
	stale []string
}

// compare prints the results of all sides beside each other. The exit code says whether
// Cricket passes what containerd passes.
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
	c = column{side: s, specs: map[string]specs.Spec{}, stale: r.Stale}
	for _, spec := range r.Specs {
		c.specs[spec.Name] = spec
	}
	c.lists, err = readLists(s)
	return c, err
}

func totals(columns []column) {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	defer w.Flush()
	fmt.Fprintln(w, "\nsuite on\tpassed\tfailed\tskipped\texceptions")
	for _, c := range columns {
		t := c.lists.count(slices.Collect(maps.Values(c.specs)), func(string, ...any) {})
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\n", c.name, t.passed, t.failed, t.skipped, t.excepted)
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
		return "absent"
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

// problems are where a side of Cricket is worse than containerd, and lists that do not tell
// the truth.
func problems(columns []column) (bad []string) {
	i := slices.IndexFunc(columns, func(c column) bool { return c.runtime == cluster.Containerd })
	peer := columns[i]
	for _, c := range columns {
		for _, e := range c.stale {
			bad = append(bad, "the lists name a spec that is not there: "+e)
		}
		for _, name := range names(columns) {
			state, excepted := c.state(name), c.lists.exceptions.Has(name)
			switch {
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
