package specs

import (
	"fmt"
	"os"
	"regexp"
	"strings"
)

// List is a list of specs, each given by an expression for its full name.
type List []Entry

// Entry is one line of a list.
type Entry struct {
	Expr   *regexp.Regexp
	Reason string // what stands behind the expression
}

// ParseList reads lines of an expression, and comments after #. A section that begins
// with "@without PATH" counts only on hosts that lack the file, until "@always".
func ParseList(text string) (List, error) {
	var l List
	active := true
	for line := range strings.Lines(text) {
		line, reason, _ := strings.Cut(line, "#")
		line = strings.TrimSpace(line)
		if path, ok := strings.CutPrefix(line, "@without "); ok {
			_, err := os.Stat(path)
			active = err != nil
			continue
		}
		if line == "@always" {
			active = true
			continue
		}
		if line == "" || !active {
			continue
		}
		expr, err := regexp.Compile(line)
		if err != nil {
			return nil, fmt.Errorf("read a list of specs: %w", err)
		}
		l = append(l, Entry{Expr: expr, Reason: strings.TrimSpace(reason)})
	}
	return l, nil
}

// Find returns the first entry for a spec, nil if there is none.
func (l List) Find(name string) *Entry {
	for i := range l {
		if l[i].Expr.MatchString(name) {
			return &l[i]
		}
	}
	return nil
}

// Has tells whether the list has an entry for a spec.
func (l List) Has(name string) bool { return l.Find(name) != nil }
