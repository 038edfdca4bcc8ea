package main

import (
	"embed"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"
)

// status is what becomes of a field.
type status string

const (
	honoured status = "honoured" // a test sends it and asserts what it does
	refused  status = "refused"  // a test sends it and gets an error that names it
	ignored  status = "ignored"  // taken without effect; the note says why
	unproven status = "unproven" // handled, but what it needs is not where the suite runs
	answered status = "answered" // a test gets it and asserts what it says
	absent   status = "absent"   // never in an answer; the note says why
)

// entry is a line of the table.
type entry struct {
	// field is a name of package field; one that ends in ".*" stands for all below it.
	field      string
	kernel, vm status
	// tests are those of test/integration; with "DIRECTORY:" before it, of another package.
	tests []string
	note  string
	// where is the file and line.
	where string
}

func (e entry) status(hull string) status {
	if hull == "vm" {
		return e.vm
	}
	return e.kernel
}

// covers tells whether the entry is about a field; one that says more of it goes first.
func (e entry) covers(name string) bool {
	if prefix, ok := strings.CutSuffix(e.field, "*"); ok {
		return strings.HasPrefix(name, prefix)
	}
	return e.field == name
}

// says is how much of a name the entry has.
func (e entry) says() int { return len(strings.TrimSuffix(e.field, "*")) }

// about are the entries of a field, by their places: more than one is a mistake.
func about(entries []entry, name string) (found []int) {
	for i, e := range entries {
		if !e.covers(name) {
			continue
		}
		if len(found) > 0 {
			switch have, own := entries[found[0]].says(), e.says(); {
			case have > own:
				continue
			case have < own:
				found = nil
			}
		}
		found = append(found, i)
	}
	return found
}

//go:embed fields
var files embed.FS

// table reads what package main carries.
func table() ([]entry, error) {
	names, err := fs.Glob(files, "fields/*.txt")
	if err != nil {
		return nil, err
	}
	var all []entry
	for _, name := range names {
		text, err := files.ReadFile(name)
		if err != nil {
			return nil, err
		}
		entries, err := parse(name, string(text))
		if err != nil {
			return nil, err
		}
		all = append(all, entries...)
	}
	return all, nil
}

// parse reads lines "FIELD | KERNEL | VM | TEST, TEST | NOTE". A line "[NAME]" puts NAME
// and a dot before the fields that follow; "{a,b}" in a field makes two of it, "#" begins a comment.
func parse(name, text string) ([]entry, error) {
	var all []entry
	prefix, number := "", 0
	for line := range strings.Lines(text) {
		number++
		where := fmt.Sprintf("%s:%d", name, number)
		line = strings.TrimSpace(line)
		if section, ok := strings.CutPrefix(line, "["); ok {
			if prefix = strings.TrimSuffix(section, "]"); prefix != "" {
				prefix += "."
			}
			continue
		}
		if line == "" || line[0] == '#' {
			continue
		}
		columns := strings.Split(line, "|")
		if len(columns) != 5 {
			return nil, fmt.Errorf("%s: %d columns instead of 5", where, len(columns))
		}
		for i := range columns {
			columns[i] = strings.TrimSpace(columns[i])
		}
		e := entry{kernel: status(columns[1]), vm: status(columns[2]), note: columns[4], where: where}
		for test := range strings.SplitSeq(columns[3], ",") {
			if test = strings.TrimSpace(test); test != "" {
				e.tests = append(e.tests, test)
			}
		}
		for _, f := range expand(prefix + columns[0]) {
			e.field = f
			all = append(all, e)
		}
	}
	return all, nil
}

var choice = regexp.MustCompile(`\{([^}]*)\}`)

func expand(name string) []string {
	at := choice.FindStringSubmatchIndex(name)
	if at == nil {
		return []string{name}
	}
	var all []string
	for part := range strings.SplitSeq(name[at[2]:at[3]], ",") {
		all = append(all, expand(name[:at[0]]+part+name[at[1]:])...)
	}
	return all
}

// problems lists what is wrong with the table itself: fields without an entry, entries
// without a field, and what an entry lacks. exists tells whether there is a test.
func problems(entries []entry, requests, answers []string, exists func(test string) bool) []string {
	var all []string
	say := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	used := make([]bool, len(entries))
	for _, name := range slices.Concat(requests, answers) {
		var found []string
		for _, i := range about(entries, name) {
			used[i] = true
			found = append(found, entries[i].where)
		}
		switch len(found) {
		case 0:
			say("%s has no entry", name)
		case 1:
		default:
			say("%s has %d entries: %s", name, len(found), strings.Join(found, ", "))
		}
	}
	for i, e := range entries {
		if !used[i] {
			say("%s: there is no field %s", e.where, e.field)
			continue
		}
		all = append(all, e.problems(!slices.ContainsFunc(answers, e.covers), exists)...)
	}
	return all
}

func (e entry) problems(request bool, exists func(string) bool) []string {
	var all []string
	say := func(format string, args ...any) {
		all = append(all, e.where+": "+e.field+": "+fmt.Sprintf(format, args...))
	}
	known := []status{answered, absent, unproven}
	if request {
		known = []status{honoured, refused, ignored, unproven}
	}
	for _, s := range []status{e.kernel, e.vm} {
		switch {
		case !slices.Contains(known, s):
			say("status %q is none of %v", s, known)
		case s == ignored || s == absent || s == unproven:
			if e.note == "" {
				say("%s without a note that says why", s)
			}
		default:
			if strings.HasSuffix(e.field, "*") && s != refused {
				say("%s for several fields at once", s)
			}
			if !slices.ContainsFunc(e.tests, isIntegration) {
				say("%s without a test", s)
			}
		}
	}
	for _, test := range e.tests {
		if !exists(test) {
			say("there is no test %s", test)
		}
	}
	return all
}

// isIntegration: its package records what it sends.
func isIntegration(test string) bool { return !strings.Contains(test, ":") }
