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
	Rates    []*rates      `json:"rates,omitempty"`
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

// rates are how much of one kind went through in a second, in the order of measurement.
type rates struct {
	Name   string    `json:"name"`
	MiB    []float64 `json:"mib"` // a second
	Median float64   `json:"p50"`
	Least  float64   `json:"min"`
}

type memoryResult struct {
	Pods   int    `json:"pods"`
	Idle   usage  `json:"idle"`
	Loaded usage  `json:"loaded"`
	Used   *usage `json:"used,omitempty"` // after each pod has run a command
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

func (r *result) addRate(name string, mib float64) {
	i := slices.IndexFunc(r.Rates, func(x *rates) bool { return x.Name == name })
	if i < 0 {
		i = len(r.Rates)
		r.Rates = append(r.Rates, &rates{Name: name})
	}
	r.Rates[i].MiB = append(r.Rates[i].MiB, mib)
}

func (r *result) summarize() {
	for _, x := range r.Rates {
		x.Median, x.Least = quantile(slices.Sorted(slices.Values(x.MiB)), 0.50), slices.Min(x.MiB)
	}
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
		writeRow(w, name, results, func(r *result) string {
			i := slices.IndexFunc(r.Calls, func(s *samples) bool { return s.Name == name })
			if i < 0 {
				return "-"
			}
			s := r.Calls[i]
			return fmt.Sprintf("%.1f / %.1f / %.1f (%d)", s.P50, s.P90, s.P99, len(s.Milliseconds))
		})
	}
	writeRates(w, results)
	for _, r := range results {
		if m := r.Memory; m != nil {
			m.write(w, r.Endpoint, "", m.Loaded)
			if m.Used != nil {
				m.write(w, r.Endpoint, " after use", *m.Used)
			}
		}
	}
	return w.Flush()
}

// write writes what n pods take: for each what it adds, what all that the endpoint's
// processes have comes to, and by how much the machine's memory fell.
func (m *memoryResult) write(w io.Writer, endpoint, when string, u usage) {
	share := func(bytes float64) float64 { return bytes / float64(m.Pods) / (1 << 20) }
	fmt.Fprintf(w, "memory of %s%s, MiB PSS (RSS)\tno pods: %s\t%d pods: %s\ta pod: %.2f, with all that is shared %.2f, of the machine's %.2f\n",
		endpoint, when, m.Idle, m.Pods, u, share(float64(u.PSS)-float64(m.Idle.PSS)), share(float64(u.PSS)),
		share(float64(m.Idle.Available)-float64(u.Available)))
}

// writeRow writes a line of the table: a cell for each endpoint.
func writeRow(w io.Writer, name string, results []*result, cell func(*result) string) {
	fmt.Fprint(w, name)
	for _, r := range results {
		fmt.Fprint(w, "\t", cell(r))
	}
	fmt.Fprintln(w)
}

// writeRates writes a line for each kind of throughput, if any was measured.
func writeRates(w io.Writer, results []*result) {
	var all []string
	for _, r := range results {
		for _, x := range r.Rates {
			if !slices.Contains(all, x.Name) {
				all = append(all, x.Name)
			}
		}
	}
	if len(all) > 0 {
		fmt.Fprintln(w, "MiB/s: p50 / min (n)")
	}
	for _, name := range all {
		writeRow(w, name, results, func(r *result) string {
			i := slices.IndexFunc(r.Rates, func(x *rates) bool { return x.Name == name })
			if i < 0 {
				return "-"
			}
			x := r.Rates[i]
			return fmt.Sprintf("%.1f / %.1f (%d)", x.Median, x.Least, len(x.MiB))
		})
	}
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
