package specs

import (
	"fmt"
	"os"
	"regexp"
	"strings"
)

// List is a list of specs or tests, each given by an expression for its full name.
type List []Entry

// Entry is one line of a list.
type Entry struct {
	Expr   *regexp.Regexp
	Reason string // what stands behind the expression
}

// ParseList reads lines of an expression, and comments after #. What follows a line
// "@without PATH" counts only on hosts that lack the file, what follows "@env NAME=VALUE" or
// "@env NAME!=VALUE" only where a variable has the value or has another; one that is not set
// is empty. "@always" ends both.
func ParseList(text string) (List, error) {
	var l List
	active := true
	for line := range strings.Lines(text) {
		line, reason, _ := strings.Cut(line, "#")
		line = strings.TrimSpace(line)
		if condition, ok := strings.CutPrefix(line, "@"); ok {
			var err error
			if active, err = holds(condition); err != nil {
				return nil, err
			}
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

// holds tells whether a list's condition is met here.
func holds(condition string) (bool, error) {
	kind, what, _ := strings.Cut(condition, " ")
	switch kind {
	case "always":
		return true, nil
	case "without":
		_, err := os.Stat(what)
		return err != nil, nil
	case "env":
		if name, value, ok := strings.Cut(what, "!="); ok {
			return os.Getenv(name) != value, nil
		}
		if name, value, ok := strings.Cut(what, "="); ok {
			return os.Getenv(name) == value, nil
		}
	}
	return false, fmt.Errorf("read a list of specs: there is no condition @%s", condition)
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
