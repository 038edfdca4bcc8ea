package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// document is the page that is made of the table.
const document = "docs/cri-coverage.md"

const intro = `# The CRI, field by field

Made of test/coverage/fields by ` + "`make cri-coverage`" + `; do not change it by hand.

Every field of every request and answer of CRI v1 (cri-api 0.37) has a line here, for pods on
the host's kernel and for pods in virtual machines. The descriptors of the API are walked, so
that a field of a newer API fails the tests until somebody has decided on it.

| word | meaning |
|---|---|
| honoured | the named test sends it with another value than the default and asserts what it does, as seen from inside the container or from the kernel |
| refused | the named test sends it and gets an error that names it |
| answered | the named test gets it with another value than the default and asserts what it says |
| ignored | taken without effect, for the reason that stands beside it |
| absent | never in an answer, for the reason that stands beside it |
| unproven | handled, but the suite's machine lacks what it needs: the note says what, and which tests there are |

The suite in test/integration records what each test sends and gets, and how it ends. A run fails if
a named test is missing, was skipped, failed or never had the field: ` + "`make test-integration`" + ` for
the kernel, ` + "`make test-integration-vm`" + ` for virtual machines. Single values of a field may be
refused where the field is honoured: [limitations.md](limitations.md).
`

// page is the whole document.
func page(entries []entry, requests, answers []string) string {
	var b strings.Builder
	b.WriteString(intro)
	b.WriteString("\n## In numbers\n\n| | kernel | virtual machine |\n|---|---|---|\n")
	count := map[status]map[string]int{}
	for _, name := range slices.Concat(requests, answers) {
		for _, i := range about(entries, name) {
			for _, hull := range []string{"kernel", "vm"} {
				s := entries[i].status(hull)
				if count[s] == nil {
					count[s] = map[string]int{}
				}
				count[s][hull]++
			}
		}
	}
	for _, s := range []status{honoured, refused, ignored, answered, absent, unproven} {
		fmt.Fprintf(&b, "| %s | %d | %d |\n", s, count[s]["kernel"], count[s]["vm"])
	}
	b.WriteString("\n## Requests\n")
	sections(&b, entries, requests)
	b.WriteString("\n## Answers\n")
	sections(&b, entries, answers)
	return b.String()
}

// sections writes a table a message, of the entries that cover the names.
func sections(b *strings.Builder, entries []entry, names []string) {
	byMessage := map[string][]entry{}
	for _, e := range entries {
		if slices.ContainsFunc(names, e.covers) {
			message, _, _ := strings.Cut(e.field, ".")
			byMessage[message] = append(byMessage[message], e)
		}
	}
	for _, message := range slices.Sorted(maps.Keys(byMessage)) {
		fmt.Fprintf(b, "\n### %s\n\n| field | kernel | virtual machine | test | note |\n|---|---|---|---|---|\n", message)
		for _, e := range byMessage[message] {
			fmt.Fprintf(b, "| `%s` | %s | %s | %s | %s |\n",
				strings.TrimPrefix(e.field, message+"."), e.kernel, e.vm, strings.Join(quoted(e.tests), ", "), e.note)
		}
	}
}

func quoted(tests []string) (all []string) {
	for _, t := range tests {
		all = append(all, "`"+strings.Replace(t, ":", ": ", 1)+"`")
	}
	return all
}
