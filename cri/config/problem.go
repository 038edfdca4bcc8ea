package config

import (
	"fmt"
	"sort"
	"strings"

	"github.com/containerd/errdefs"
)

// Problem is one mistake in a configuration.
type Problem struct {
	Line int    // in the file, from 1; 0 if the key is not in the file
	Key  string // dotted, empty for a mistake of syntax
	Text string // what is wrong and what is allowed
}

func (p Problem) String() string {
	var b strings.Builder
	if p.Line > 0 {
		fmt.Fprintf(&b, "line %d: ", p.Line)
	}
	if p.Key != "" {
		fmt.Fprintf(&b, "%s: ", p.Key)
	}
	return b.String() + p.Text
}

// FileError is the error that lists all mistakes of a file.
type FileError struct {
	File string
	List []Problem
}

func (p FileError) Error() string {
	lines := make([]string, len(p.List))
	for i, problem := range p.List {
		lines[i] = p.File + ": " + problem.String()
	}
	return strings.Join(lines, "\n")
}

// Unwrap makes the error an errdefs.ErrInvalidArgument.
func (p FileError) Unwrap() error { return errdefs.ErrInvalidArgument }

func sortProblems(list []Problem) {
	sort.SliceStable(list, func(i, j int) bool { return list[i].Line < list[j].Line })
}
