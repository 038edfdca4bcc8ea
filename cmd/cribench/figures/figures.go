// Package figures holds what was measured and the statistics of it: samples grouped into
// series, a series for each thing that was measured of an endpoint, all in one run that can be
// written as JSON and read again.
package figures

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"
)

// Units of series.
const (
	Millis  = "ms"
	PerSec  = "pods/s"
	Rate    = "MiB/s"
	MiB     = "MiB"
	Percent = "% of a core"
	Seconds = "CPU s"
)

// Series are the samples of one thing, in the order in which they were taken.
type Series struct {
	Section string    `json:"section"` // of the run that took them
	Name    string    `json:"name"`
	Unit    string    `json:"unit"`
	More    bool      `json:"more_is_better"`
	Samples []float64 `json:"samples"`
	P50     float64   `json:"p50"`
	P90     float64   `json:"p90"`
	P99     float64   `json:"p99"`
	Min     float64   `json:"min"`
	Max     float64   `json:"max"`
}

// Key names a series within an endpoint.
func (s *Series) Key() string { return s.Section + "/" + s.Name }

// Stat is the value of one statistic: p50, p90, p99, min or max.
func (s *Series) Stat(name string) (float64, error) {
	switch name {
	case "p50":
		return s.P50, nil
	case "p90":
		return s.P90, nil
	case "p99":
		return s.P99, nil
	case "min":
		return s.Min, nil
	case "max":
		return s.Max, nil
	}
	return 0, fmt.Errorf("no statistic is called %q: want p50, p90, p99, min or max", name)
}

// Endpoint is what was measured of one endpoint. Samples may be added by several goroutines
// at once; whoever reads the series must be alone.
type Endpoint struct {
	Name    string    `json:"name"`
	Handler string    `json:"handler,omitempty"`
	Version string    `json:"version"` // as the runtime tells it
	Series  []*Series `json:"series"`
	Errors  []string  `json:"errors,omitempty"` // sections that failed, with the reason

	mu sync.Mutex
}

// Add adds a sample; the first one of a series makes it.
func (e *Endpoint) Add(section, name, unit string, sample float64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.find(section + "/" + name)
	if s == nil {
		s = &Series{Section: section, Name: name, Unit: unit, More: unit == PerSec || unit == Rate}
		e.Series = append(e.Series, s)
	}
	s.Samples = append(s.Samples, sample)
}

// AddTime adds a duration.
func (e *Endpoint) AddTime(section, name string, d time.Duration) {
	e.Add(section, name, Millis, float64(d)/float64(time.Millisecond))
}

// Find is the series of that key, nil if nothing was measured.
func (e *Endpoint) Find(key string) *Series {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.find(key)
}

func (e *Endpoint) find(key string) *Series {
	i := slices.IndexFunc(e.Series, func(s *Series) bool { return s.Key() == key })
	if i < 0 {
		return nil
	}
	return e.Series[i]
}

// Host is the machine that the run was made on.
type Host struct {
	Kernel    string  `json:"kernel"`
	Processor string  `json:"processor"`
	CPUs      int     `json:"cpus"`
	MemoryMiB float64 `json:"memory_mib"`
	// Load is the machine's load average over a minute, Fork the median time in ms to start
	// /bin/true and wait for it, both before the run and after it: they tell how quiet it was.
	Load [2]float64 `json:"load"`
	Fork [2]float64 `json:"fork_ms"`
}

// Busy tells whether something else took the processors: more was runnable before the run
// than there are of them.
func (h Host) Busy() bool { return h.Load[0] > float64(h.CPUs) }

// Run is all that one call of the program measured.
type Run struct {
	Date      time.Time   `json:"date"`
	Command   []string    `json:"command"`
	Host      Host        `json:"host"`
	Endpoints []*Endpoint `json:"endpoints"`
}

// Endpoint is the one of that name, nil if there is none.
func (r *Run) Endpoint(name string) *Endpoint {
	i := slices.IndexFunc(r.Endpoints, func(e *Endpoint) bool { return e.Name == name })
	if i < 0 {
		return nil
	}
	return r.Endpoints[i]
}

// Sections are those in which something was measured, in order.
func (r *Run) Sections() []string {
	var all []string
	for _, e := range r.Endpoints {
		for _, s := range e.Series {
			if !slices.Contains(all, s.Section) {
				all = append(all, s.Section)
			}
		}
	}
	return all
}

// Keys are the series of a section, in the order in which the endpoints met them first.
func (r *Run) Keys(section string) []string {
	var all []string
	for _, e := range r.Endpoints {
		for _, s := range e.Series {
			if s.Section == section && !slices.Contains(all, s.Key()) {
				all = append(all, s.Key())
			}
		}
	}
	return all
}

// Summarize computes the statistics of all series.
func (r *Run) Summarize() {
	for _, e := range r.Endpoints {
		for _, s := range e.Series {
			sorted := slices.Sorted(slices.Values(s.Samples))
			s.P50, s.P90, s.P99 = Quantile(sorted, 0.50), Quantile(sorted, 0.90), Quantile(sorted, 0.99)
			s.Min, s.Max = sorted[0], sorted[len(sorted)-1]
		}
	}
}

// Write writes the run as JSON.
func (r *Run) Write(w io.Writer) error {
	r.Summarize()
	e := json.NewEncoder(w)
	e.SetIndent("", " ")
	return e.Encode(r)
}

// Read reads what Write wrote. The statistics are computed anew.
func Read(in io.Reader) (*Run, error) {
	r := &Run{}
	if err := json.NewDecoder(in).Decode(r); err != nil {
		return nil, fmt.Errorf("read a run: %w", err)
	}
	for _, e := range r.Endpoints {
		for _, s := range e.Series {
			if len(s.Samples) == 0 {
				return nil, fmt.Errorf("read a run: %s of %s has no samples", s.Key(), e.Name)
			}
		}
	}
	r.Summarize()
	return r, nil
}
