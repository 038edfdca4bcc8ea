package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"sync"
	"text/tabwriter"
	"time"
)

// result is what was measured of one endpoint. It is safe for concurrent use while
// samples are added.
type result struct {
	Endpoint string        `json:"endpoint"`
	Version  string        `json:"version"`
	Calls    []*samples    `json:"calls"`
	Memory   *memoryResult `json:"memory,omitempty"`

	mu sync.Mutex
}

// samples are the durations of one kind of call, in the order in which they ended.
type samples struct {
	Name         string    `json:"name"`
	Milliseconds []float64 `json:"ms"`
	P50          float64   `json:"p50"`
	P90          float64   `json:"p90"`
	P99          float64   `json:"p99"`
}

type memoryResult struct {
	Pods   int   `json:"pods"`
	Idle   usage `json:"idle"`
	Loaded usage `json:"loaded"`
}

func newResult(endpoint string) *result { return &result{Endpoint: endpoint} }

func (r *result) add(name string, d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.IndexFunc(r.Calls, func(s *samples) bool { return s.Name == name })
	if i < 0 {
		i = len(r.Calls)
		r.Calls = append(r.Calls, &samples{Name: name})
	}
	r.Calls[i].Milliseconds = append(r.Calls[i].Milliseconds, float64(d)/float64(time.Millisecond))
}

func (r *result) summarize() {
	for _, s := range r.Calls {
		sorted := slices.Sorted(slices.Values(s.Milliseconds))
		s.P50, s.P90, s.P99 = quantile(sorted, 0.50), quantile(sorted, 0.90), quantile(sorted, 0.99)
	}
}

// quantile is the smallest sample that a share q of all does not exceed.
func quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return math.NaN()
	}
	return sorted[max(0, int(math.Ceil(q*float64(len(sorted))))-1)]
}

func writeJSON(w io.Writer, results []*result) error {
	for _, r := range results {
		r.summarize()
	}
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(results)
}

// writeTable writes milliseconds, a line for each kind of call and a column for each
// endpoint, and memory below.
func writeTable(out io.Writer, results []*result) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "ms: p50 / p90 / p99 (n)")
	for _, r := range results {
		r.summarize()
		fmt.Fprintf(w, "\t%s (%s)", r.Endpoint, r.Version)
	}
	fmt.Fprintln(w)
	for _, name := range names(results) {
		fmt.Fprint(w, name)
		for _, r := range results {
			i := slices.IndexFunc(r.Calls, func(s *samples) bool { return s.Name == name })
			if i < 0 {
				fmt.Fprint(w, "\t-")
				continue
			}
			s := r.Calls[i]
			fmt.Fprintf(w, "\t%.1f / %.1f / %.1f (%d)", s.P50, s.P90, s.P99, len(s.Milliseconds))
		}
		fmt.Fprintln(w)
	}
	for _, r := range results {
		if m := r.Memory; m != nil {
			fmt.Fprintf(w, "memory of %s, MiB PSS (RSS)\tno pods: %s\t%d pods: %s\ta pod: %.2f\n", r.Endpoint,
				m.Idle, m.Pods, m.Loaded, (float64(m.Loaded.PSS)-float64(m.Idle.PSS))/float64(m.Pods)/(1<<20))
		}
	}
	return w.Flush()
}

func (u usage) String() string {
	return fmt.Sprintf("%.1f (%.1f) in %d", float64(u.PSS)/(1<<20), float64(u.RSS)/(1<<20), u.Processes)
}

// names are all kinds of calls in the order in which the endpoints met them first.
func names(results []*result) []string {
	var all []string
	for _, r := range results {
		for _, s := range r.Calls {
			if !slices.Contains(all, s.Name) {
				all = append(all, s.Name)
			}
		}
	}
	return all
}
