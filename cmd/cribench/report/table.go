// Package report shows a run to people: as a table for a terminal, as Markdown, as plots, and
// held against what was expected of it.
package report

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/cricket-cri/cricket/cmd/cribench/figures"
)

// grid is a table before anybody decides how it is drawn: for each section rows of a name, a
// cell for each endpoint, and the ratio to the best of the others.
type grid struct {
	head     []string
	sections []gridSection
}

type gridSection struct {
	name string
	rows [][]string
}

// makeGrid makes the table of a run. The first endpoint is compared with each other one:
// behind another's figures stands by what its median has to be multiplied to give the first
// one's, and in the last column the same for the best of the others.
func makeGrid(run *figures.Run) grid {
	g := grid{head: []string{""}}
	for _, e := range run.Endpoints {
		g.head = append(g.head, e.Name)
	}
	if len(run.Endpoints) > 2 {
		g.head = append(g.head, "to the best other")
	}
	for _, section := range run.Sections() {
		s := gridSection{name: section}
		for _, key := range run.Keys(section) {
			s.rows = append(s.rows, row(run, key))
		}
		g.sections = append(g.sections, s)
	}
	return g
}

func row(run *figures.Run, key string) []string {
	all := make([]*figures.Series, len(run.Endpoints))
	var any *figures.Series
	for i, e := range run.Endpoints {
		if all[i] = e.Find(key); all[i] != nil {
			any = all[i]
		}
	}
	cells := []string{fmt.Sprintf("%s (%s)", any.Name, any.Unit)}
	for i, s := range all {
		cell := Cell(s)
		if r := Ratio(all[0], s); i > 0 && !math.IsNaN(r) {
			cell += fmt.Sprintf(" [%.2f]", r)
		}
		cells = append(cells, cell)
	}
	if len(all) > 2 {
		cell := "-"
		if r := Ratio(all[0], best(all[1:])); !math.IsNaN(r) {
			cell = fmt.Sprintf("%.2f", r)
		}
		cells = append(cells, cell)
	}
	return cells
}

// Cell is what a table shows of a series: quantiles of times, the median and the extremes of
// the rest.
func Cell(s *figures.Series) string {
	switch {
	case s == nil:
		return "-"
	case s.Unit == figures.Millis && len(s.Samples) > 1:
		return number(s.P50) + " / " + number(s.P90) + " / " + number(s.P99)
	case len(s.Samples) > 1:
		return fmt.Sprintf("%s (%s to %s)", number(s.P50), number(s.Min), number(s.Max))
	}
	return number(s.P50)
}

// number shows three digits that count, and no more than that of a large one.
func number(v float64) string {
	switch a := math.Abs(v); {
	case a == 0:
		return "0"
	case a < 0.0995:
		return fmt.Sprintf("%.3f", v)
	case a < 9.995:
		return fmt.Sprintf("%.2f", v)
	case a < 99.95:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}

// Ratio is the median of one series divided by that of the other; NaN if that says nothing.
func Ratio(of, to *figures.Series) float64 {
	if of == nil || to == nil || to.P50 <= 0 || of.P50 < 0 {
		return math.NaN()
	}
	return of.P50 / to.P50
}

// best is the series with the best median, nil of none.
func best(all []*figures.Series) *figures.Series {
	var found *figures.Series
	for _, s := range all {
		if s != nil && (found == nil || s.More && s.P50 > found.P50 || !s.More && s.P50 < found.P50) {
			found = s
		}
	}
	return found
}

const legend = "Times are p50 / p90 / p99; of other figures the median, and the extremes where there are several."

// compared explains the ratios, if there are any.
func compared(run *figures.Run) string {
	if len(run.Endpoints) < 2 {
		return ""
	}
	return fmt.Sprintf(" In brackets: the median of %s divided by this one.", run.Endpoints[0].Name)
}

// Table writes the run for a terminal.
func Table(out io.Writer, run *figures.Run) error {
	fmt.Fprintln(out, legend+compared(run))
	for _, e := range run.Endpoints {
		fmt.Fprintf(out, "%s: %s\n", e.Name, version(e))
	}
	fmt.Fprintln(out, hostLine(run.Host))
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	g := makeGrid(run)
	for _, s := range g.sections {
		fmt.Fprintf(w, "\n%s\n", strings.Join(append([]string{strings.ToUpper(s.name)}, g.head[1:]...), "\t"))
		for _, r := range s.rows {
			fmt.Fprintln(w, strings.Join(r, "\t"))
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, e := range run.Endpoints {
		for _, text := range e.Errors {
			fmt.Fprintf(out, "\n%s: %s\n", e.Name, text)
		}
	}
	return nil
}

func version(e *figures.Endpoint) string {
	if e.Handler == "" {
		return e.Version
	}
	return e.Version + ", handler " + e.Handler
}

func hostLine(h figures.Host) string {
	line := fmt.Sprintf("%d × %s, %s MiB, Linux %s; load average %.1f before and %.1f after, fork and exec of /bin/true %s and %s ms",
		h.CPUs, h.Processor, number(h.MemoryMiB), h.Kernel, h.Load[0], h.Load[1], number(h.Fork[0]), number(h.Fork[1]))
	if h.Busy() {
		line += ". THE HOST WAS BUSY with other things: compare what stands side by side, and nothing else"
	}
	return line
}

// Markdown writes the run for a document. plots are links to pictures by section.
func Markdown(out io.Writer, run *figures.Run, plots map[string]string) error {
	var b strings.Builder
	b.WriteString(legend + compared(run) + "\n\n")
	b.WriteString(hostLine(run.Host) + ".\n")
	g := makeGrid(run)
	for _, s := range g.sections {
		fmt.Fprintf(&b, "\n### %s\n\n", s.name)
		line := func(cells []string) {
			b.WriteString("| " + strings.Join(cells, " | ") + " |\n")
		}
		line(g.head)
		line(slices.Repeat([]string{"---"}, len(g.head)))
		for _, r := range s.rows {
			line(r)
		}
		if link := plots[s.name]; link != "" {
			fmt.Fprintf(&b, "\n![%s](%s)\n", s.name, link)
		}
	}
	for _, e := range run.Endpoints {
		for _, text := range e.Errors {
			fmt.Fprintf(&b, "\nNot measured of %s: %s\n", e.Name, strings.ReplaceAll(text, "\n", " "))
		}
	}
	_, err := io.WriteString(out, b.String())
	return err
}
