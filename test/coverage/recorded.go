package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cricket-cri/cricket/test/coverage/field"
)

// broken lists the entries that a recorded run of the suite does not bear out.
func broken(entries []entry, hull string, r field.Recording) []string {
	var all []string
	for _, e := range entries {
		s := e.status(hull)
		if s == refused {
			all = append(all, e.taken(hull, r)...)
		}
		if s != honoured && s != refused && s != answered {
			continue
		}
		if why := e.unheld(s, r); why != "" {
			all = append(all, fmt.Sprintf("%s: %s is %s in hull %s, but %s", e.where, e.field, s, hull, why))
		}
	}
	return all
}

// unheld is empty if one of the entry's tests passed and did with the field what the entry
// says; else it says what is wrong with the tests.
func (e entry) unheld(s status, r field.Recording) string {
	var reasons []string
	for _, test := range e.tests {
		if !isIntegration(test) {
			continue
		}
		why := fmt.Sprintf("%s was not run", test)
		for _, name := range slices.Sorted(maps.Keys(r)) {
			if name != test && !strings.HasPrefix(name, test+"/") {
				continue
			}
			switch use := r[name]; {
			case use.Outcome == "pass" && e.used(s, use):
				why = ""
			case why == "":
			case use.Outcome == "pass":
				why = fmt.Sprintf("%s never had it with another value than the default", test)
			case use.Outcome == "skip":
				why = fmt.Sprintf("%s was skipped", name)
			default:
				why = fmt.Sprintf("%s failed", name)
			}
		}
		if why == "" {
			return ""
		}
		reasons = append(reasons, why)
	}
	return strings.Join(reasons, "; ")
}

func (e entry) used(s status, u field.Use) bool {
	switch s {
	case honoured:
		return slices.Contains(u.Honoured, e.field)
	case refused: // as a whole, or what it is part of
		for name := strings.TrimSuffix(e.field, ".*"); name != ""; {
			if slices.Contains(u.Refused, name) {
				return true
			}
			name = name[:max(strings.LastIndexByte(name, '.'), 0)]
		}
		return false
	}
	return slices.Contains(u.Answered, e.field)
}

// virtualTests begins the names of tests that make virtual pods of the suite on the shared
// kernel.
const virtualTests = "TestVirtual"

// taken: a field that is refused in a hull was in a request that succeeded there.
func (e entry) taken(hull string, r field.Recording) []string {
	var all []string
	for _, test := range slices.Sorted(maps.Keys(r)) {
		if hull != "vm" && strings.HasPrefix(test, virtualTests) {
			continue
		}
		if i := slices.IndexFunc(r[test].Honoured, e.covers); i >= 0 {
			all = append(all, fmt.Sprintf("%s: %s is refused, but %s sent %s and was answered", e.where, e.field, test, r[test].Honoured[i]))
		}
	}
	return all
}
