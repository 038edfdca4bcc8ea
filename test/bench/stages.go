package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/cricket-cri/cricket/cri/trace/otlptest"
	"github.com/cricket-cri/cricket/test/harness"
)

// stagesConfig sends a trace of every call to a collector.
const stagesConfig = "[tracing]\nendpoint = %q\ninsecure = true\nsampling_rate_per_million = 1000000\n"

// between stands between the names of a path.
const between = " > "

// shortest is how long a step takes that is worth a line.
const shortest = 100 * time.Microsecond

// stages runs cribench with a daemon that traces, and prints where the time of its calls goes.
func (o options) stages(ctx context.Context) error {
	registry, closeRegistry, err := serveImages()
	if err != nil {
		return err
	}
	defer closeRegistry()
	collector, address, stop, err := otlptest.Serve("127.0.0.1:0")
	if err != nil {
		return err
	}
	defer stop()
	o.config = filepath.Join(harness.Dir(), "tracing.toml")
	if err := os.WriteFile(o.config, fmt.Appendf(nil, stagesConfig, address), 0o644); err != nil {
		return err
	}
	d, err := o.cricket(ctx, registry)
	if err != nil {
		return err
	}
	args, err := o.endpoints(d, nil, o.daemons()[0])
	if err == nil {
		err = o.cribench(ctx, append(args, "--measure", "start"))
	}
	if ended := d.Stop(); err == nil { // sends what waits
		err = ended
	}
	if err != nil {
		_ = d.Kill()
		return err
	}
	return writeStages(os.Stdout, collector.Spans(""))
}

// stage is what is known of the spans of one path.
type stage struct {
	path         string
	first        uint64 // when the first of them began
	begins, took []time.Duration
}

// writeStages prints a table of the spans below each call: when they begin after it, and how
// long they take. What happens in less than half of the calls of its kind is left out.
func writeStages(w io.Writer, spans []otlptest.Span) error {
	byID := map[string]otlptest.Span{}
	for _, s := range spans {
		byID[s.Trace+s.ID] = s
	}
	stages := map[string]*stage{}
	for _, s := range spans {
		path, above := s.Name, s
		for {
			parent, ok := byID[above.Trace+above.Parent]
			if !ok {
				break
			}
			path, above = parent.Name+between+path, parent
		}
		if stages[path] == nil {
			stages[path] = &stage{path: path, first: s.Start}
		}
		st := stages[path]
		st.first = min(st.first, s.Start)
		st.begins = append(st.begins, time.Duration(s.Start-above.Start))
		st.took = append(st.took, time.Duration(s.End-s.Start))
	}
	if len(stages) == 0 {
		return errors.New("no span has arrived")
	}
	sorted := slices.SortedFunc(maps.Values(stages), func(a, b *stage) int { return slices.Compare(order(a, stages), order(b, stages)) })
	fmt.Fprintf(w, "| step | times | begins after (ms) | takes p50 (ms) | p90 |\n|---|---|---|---|---|\n")
	for _, s := range sorted {
		steps := strings.Split(s.path, between)
		calls := stages[steps[0]]
		if len(s.took) < len(calls.took)/2 || quantile(s.took, 50) < shortest {
			continue
		}
		fmt.Fprintf(w, "| %s%s | %d | %.1f | %.1f | %.1f |\n", strings.Repeat("&nbsp;&nbsp;", len(steps)-1), steps[len(steps)-1],
			len(s.took), ms(quantile(s.begins, 50)), ms(quantile(s.took, 50)), ms(quantile(s.took, 90)))
	}
	return nil
}

// order sorts stages as they begin, behind those that they are part of.
func order(s *stage, all map[string]*stage) []string {
	var keys []string
	steps := strings.Split(s.path, between)
	for i := range steps {
		above := strings.Join(steps[:i+1], between)
		keys = append(keys, fmt.Sprintf("%020d %s", all[above].first, above))
	}
	return keys
}

func quantile(d []time.Duration, percent int) time.Duration {
	sorted := slices.SortedFunc(slices.Values(d), cmp.Compare)
	return sorted[min(len(sorted)-1, len(sorted)*percent/100)]
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
