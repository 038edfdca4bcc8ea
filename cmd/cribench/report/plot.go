package report

import (
	"encoding/xml"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"

	"github.com/cricket-cri/cricket/cmd/cribench/figures"
)

// Plots are drawn here in a hundred lines of SVG: a library would bring a rasteriser and fonts
// along for steps, ticks and a legend.

const (
	panelWidth, panelHeight = 300, 170
	marginLeft, marginTop   = 38, 40 // of a panel; the rest of it is margin too
	plotWidth, plotHeight   = 250, 105
	legendHeight            = 34
	panelColumns            = 3
	// fewest is how many samples a distribution takes to be one.
	fewest = 5
)

// colours of endpoints, distinct for those who do not see red or green too (Okabe and Ito).
var colours = []string{"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"}

// Plot draws the distributions of a section's times: for each series a panel with the share
// of samples that took at most so long, a step curve for each endpoint. It writes nothing and
// returns false if no series has enough samples.
func Plot(out io.Writer, run *figures.Run, section string) (drawn bool, err error) {
	var keys []string
	for _, key := range run.Keys(section) {
		if slices.ContainsFunc(run.Endpoints, func(e *figures.Endpoint) bool { return plotted(e.Find(key)) }) {
			keys = append(keys, key)
		}
	}
	if len(keys) == 0 {
		return false, nil
	}
	columns := min(panelColumns, len(keys))
	rows := (len(keys) + columns - 1) / columns
	width, height := columns*panelWidth, rows*panelHeight+legendHeight
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %[1]d %[2]d" font-family="sans-serif" font-size="10">`+"\n", width, height)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#fff"/>`+"\n", width, height)
	for i, e := range run.Endpoints {
		x := 12 + i*130
		fmt.Fprintf(&b, `<rect x="%d" y="12" width="14" height="4" fill="%s"/><text x="%d" y="18">%s</text>`+"\n", x, colours[i%len(colours)], x+18, escape(e.Name))
	}
	for i, key := range keys {
		panel(&b, run, key, i%columns*panelWidth, legendHeight+i/columns*panelHeight)
	}
	b.WriteString("</svg>\n")
	_, err = io.WriteString(out, b.String())
	return true, err
}

func plotted(s *figures.Series) bool {
	return s != nil && s.Unit == figures.Millis && len(s.Samples) >= fewest
}

// panel draws one series with its corner at x, y.
func panel(b *strings.Builder, run *figures.Run, key string, x, y int) {
	most := 0.0
	name := ""
	for _, e := range run.Endpoints {
		if s := e.Find(key); plotted(s) {
			name = s.Name
			// Beyond the p90 a curve may leave: one slow call must not squeeze all others.
			most = max(most, min(s.Max, 1.5*s.P90))
		}
	}
	step := tick(most)
	most = math.Ceil(most/step) * step
	fmt.Fprintf(b, `<g transform="translate(%d %d)"><text x="0" y="-10" font-weight="bold">%s, ms</text>`+"\n", x+marginLeft, y+marginTop, escape(name))
	for share := 0.0; share <= 1; share += 0.5 {
		at := plotHeight * (1 - share)
		fmt.Fprintf(b, `<path d="M0 %.1fH%d" stroke="#ddd"/><text x="-4" y="%.1f" text-anchor="end">%.0f%%</text>`+"\n", at, plotWidth, at+3, 100*share)
	}
	for v := 0.0; v <= most+step/2; v += step {
		at := plotWidth * v / most
		fmt.Fprintf(b, `<path d="M%.1f %d v4" stroke="#666"/><text x="%.1f" y="%d" text-anchor="middle">%s</text>`+"\n", at, plotHeight, at, plotHeight+15, label(v))
	}
	for i, e := range run.Endpoints {
		if s := e.Find(key); plotted(s) {
			fmt.Fprintf(b, `<path d="%s" fill="none" stroke="%s" stroke-width="1.5"/>`+"\n", steps(s.Samples, most), colours[i%len(colours)])
		}
	}
	b.WriteString("</g>\n")
}

// steps is the path of a distribution, cut off at most.
func steps(samples []float64, most float64) string {
	var b strings.Builder
	fmt.Fprintf(&b, "M0 %d", plotHeight)
	for i, v := range slices.Sorted(slices.Values(samples)) {
		if v > most {
			fmt.Fprintf(&b, "H%d", plotWidth)
			break
		}
		share := float64(i+1) / float64(len(samples))
		fmt.Fprintf(&b, "H%.1fV%.1f", plotWidth*v/most, plotHeight*(1-share))
	}
	return b.String()
}

// tick is a round step that makes three to seven of an axis to most.
func tick(most float64) float64 {
	if most <= 0 {
		return 1
	}
	power := math.Pow(10, math.Floor(math.Log10(most)))
	for _, factor := range []float64{0.2, 0.5, 1, 2} {
		if most/(factor*power) <= 7 {
			return factor * power
		}
	}
	return 5 * power
}

func label(v float64) string {
	return strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%.3f", v), "0"), ".")
}

func escape(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s)) // a strings.Builder takes everything
	return b.String()
}
