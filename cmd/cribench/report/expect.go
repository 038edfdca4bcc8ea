package report

import (
	"bufio"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/cricket-cri/cricket/cmd/cribench/figures"
)

// Expectation is a bound on a statistic of a series of an endpoint: a number, or a factor of
// the same statistic of the best of some other endpoints.
type Expectation struct {
	Text     string // as it was written
	Key      string
	Endpoint string
	Stat     string
	Least    bool // the bound is the least that it may be, rather than the most
	Bound    float64
	Of       []string // empty: the bound is a number
}

// Outcome is what became of an expectation.
type Outcome struct {
	Expectation
	Value, Bound float64
	Problem      string // why there is no value; empty if there is
	Met          bool
}

// expectation is a line like
//
//	start/pod start: cricket p50 <= 0.5 * containerd
//	start/pod start: cricket p50 <= 0.7 * best(containerd, crio)
//	memory/base PSS: cricket p50 <= 60
var expectation = regexp.MustCompile(`^(.+): *(\S+) +(p50|p90|p99|min|max) *(<=|>=) *([0-9.]+)(?: *\* *(?:best\(([^()]+)\)|([^\s()]+)))?$`)

// ReadExpectations reads a line for each expectation; empty lines and those that begin with
// a number sign are for people.
func ReadExpectations(in io.Reader) ([]Expectation, error) {
	var all []Expectation
	lines := bufio.NewScanner(in)
	for n := 1; lines.Scan(); n++ {
		text := strings.TrimSpace(lines.Text())
		if text == "" || strings.HasPrefix(text, "#") {
			continue
		}
		m := expectation.FindStringSubmatch(text)
		if m == nil {
			return nil, fmt.Errorf("line %d: want SECTION/NAME: ENDPOINT STATISTIC <=|>= NUMBER [* ENDPOINT | * best(ENDPOINT, ...)], not %q", n, text)
		}
		e := Expectation{Text: text, Key: m[1], Endpoint: m[2], Stat: m[3], Least: m[4] == ">="}
		var err error
		if e.Bound, err = strconv.ParseFloat(m[5], 64); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if m[7] != "" {
			e.Of = []string{m[7]}
		}
		if m[6] != "" {
			for name := range strings.SplitSeq(m[6], ",") {
				e.Of = append(e.Of, strings.TrimSpace(name))
			}
		}
		all = append(all, e)
	}
	return all, lines.Err()
}

// Hold holds a run against expectations. What was not measured is not met; of the endpoints
// to compare with one is enough.
func Hold(run *figures.Run, all []Expectation) []Outcome {
	outcomes := make([]Outcome, len(all))
	for i, e := range all {
		outcomes[i] = e.hold(run)
	}
	return outcomes
}

func (e Expectation) hold(run *figures.Run) Outcome {
	o := Outcome{Expectation: e, Bound: e.Bound}
	var err error
	if o.Value, err = e.value(run, e.Endpoint); err != nil {
		o.Problem = err.Error()
		return o
	}
	var others []float64
	for _, name := range e.Of {
		v, err := e.value(run, name)
		if err == nil {
			others = append(others, v)
		} else if o.Problem == "" {
			o.Problem = err.Error()
		}
	}
	if len(e.Of) > 0 {
		if len(others) == 0 {
			return o
		}
		o.Problem = ""
		// What has to be small is compared with the smallest.
		if e.Least {
			o.Bound *= slices.Max(others)
		} else {
			o.Bound *= slices.Min(others)
		}
	}
	o.Met = e.Least && o.Value >= o.Bound || !e.Least && o.Value <= o.Bound
	return o
}

func (e Expectation) value(run *figures.Run, name string) (float64, error) {
	endpoint := run.Endpoint(name)
	if endpoint == nil {
		return 0, fmt.Errorf("%s was not measured", name)
	}
	s := endpoint.Find(e.Key)
	if s == nil {
		return 0, fmt.Errorf("%s of %s was not measured", e.Key, name)
	}
	return s.Stat(e.Stat)
}

// String tells the outcome in a line.
func (o Outcome) String() string {
	verdict := "MISSED"
	if o.Met {
		verdict = "met"
	}
	if o.Problem != "" {
		return fmt.Sprintf("%-6s  %s: %s", verdict, o.Text, o.Problem)
	}
	return fmt.Sprintf("%-6s  %s: %s, bound %s", verdict, o.Text, number(o.Value), number(o.Bound))
}

// Missed counts those that were not met.
func Missed(all []Outcome) int {
	n := 0
	for _, o := range all {
		if !o.Met {
			n++
		}
	}
	return n
}

// MarkdownOutcomes writes a table of expectations and what became of them.
func MarkdownOutcomes(out io.Writer, all []Outcome) error {
	var b strings.Builder
	b.WriteString("| expected | measured | bound | |\n|---|---|---|---|\n")
	for _, o := range all {
		value, bound, verdict := number(o.Value), number(o.Bound), "missed"
		if o.Problem != "" {
			value, bound = o.Problem, ""
		}
		if o.Met {
			verdict = "met"
		}
		if o.Problem != "" {
			verdict = "open"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", o.Text, value, bound, verdict)
	}
	_, err := io.WriteString(out, b.String())
	return err
}
