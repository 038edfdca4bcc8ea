package main

import (
	"fmt"
	"io"
	"regexp"
	"strings"
)

// pack is a package whose tests run.
type pack struct {
	lines  []line           // not printed yet
	tests  map[string]*test // by name, of each what it did last
	failed int              // tests
	end    string
}

// test is one run of a test. Output of a package itself belongs to one without a name.
type test struct {
	logs []string // the first line of what it logged, of each call
	last line
	end  string
}

// line is one line of output, or a part of a very long one.
type line struct {
	test *test
	kind kind
	text string
}

// kind is what go test without -v prints of tests that fail and of no others, or prints in
// any case.
type kind int

const (
	printed kind = iota // by the test or by what it started
	frame               // by the testing package: what a test begins and how it ends
	logged              // with t.Log and the like
)

var (
	isFrame  = regexp.MustCompile(`^(=== [A-Z]+ |\s*--- [A-Z]+: )`)
	isLogged = regexp.MustCompile(`^ {4}\S+\.go:\d+: (.*)`)
)

// moreLogged is before all lines of what was logged but the first.
const moreLogged = "        "

func newPack() *pack { return &pack{tests: map[string]*test{}} }

func (p *pack) test(name string) *test {
	if p.tests[name] == nil {
		p.tests[name] = &test{}
	}
	return p.tests[name]
}

func (p *pack) add(name, text string) {
	t := p.test(name)
	l := line{test: t, kind: printed, text: text}
	begins := isLogged.FindStringSubmatch(text)
	switch {
	case isFrame.MatchString(text):
		l.kind = frame
	case t.last.text != "" && !strings.HasSuffix(t.last.text, "\n"):
		l.kind = t.last.kind
	case begins != nil:
		l.kind = logged
		t.logs = append(t.logs, begins[1])
	case t.last.kind == logged && strings.HasPrefix(text, moreLogged):
		l.kind = logged
	}
	t.last = l
	p.lines = append(p.lines, l)
}

// print prints what it has not yet: all, or what go test prints without -v. Of a package
// that passed that is the last line.
func (p *pack) print(out io.Writer, all bool) {
	lines := p.lines
	p.lines = nil
	if !all && (p.end == passed || p.end == skipped) {
		lines = lines[max(0, len(lines)-1):]
	}
	for _, l := range lines {
		if all || !l.hidden() {
			fmt.Fprint(out, l.text)
		}
	}
}

// hidden tells whether go test without -v does not print the line.
func (l line) hidden() bool {
	return l.kind != printed && (l.test.end == passed || l.test.end == skipped)
}
