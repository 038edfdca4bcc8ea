package image

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
)

// counters are of the store's whole life.
type counters struct {
	bytes, retries, resumed, failovers atomic.Uint64

	mu    sync.Mutex
	ended map[string]uint64
}

// Progress is one pull under way.
type Progress struct {
	Name string    `json:"name"` // in full, with tag or digest
	From time.Time `json:"from"` // when it began
	// Fetched and Total count the bytes of the layers that are not on the node, as they
	// come from the registry. Total is 0 until the manifest has been read.
	Fetched int64 `json:"fetched"`
	Total   int64 `json:"total"`
	// Layers is how many layers have to be fetched, Done how many of them are in.
	Layers int `json:"layers"`
	Done   int `json:"done"`
}

// Status is what the store does and has done since it was opened.
type Status struct {
	Pulls []Progress // by begin
	Bytes uint64     // received from registries, all kinds of answers together
	// Retries counts repeated requests, Resumed layers that were taken up again in the
	// middle, Failovers how often another endpoint was asked since one failed.
	Retries, Resumed, Failovers uint64
	// Ended counts pulls by outcome: "ok", or the kind of error in snake case.
	Ended map[string]uint64
}

// Status answers from memory.
func (s *Store) Status() Status {
	st := Status{
		Bytes: s.counts.bytes.Load(), Retries: s.counts.retries.Load(),
		Resumed: s.counts.resumed.Load(), Failovers: s.counts.failovers.Load(), Ended: map[string]uint64{},
	}
	s.counts.mu.Lock()
	for k, v := range s.counts.ended {
		st.Ended[k] = v
	}
	s.counts.mu.Unlock()
	s.pulls.mu.Lock()
	for p := range s.pulls.open {
		st.Pulls = append(st.Pulls, p.progress())
	}
	s.pulls.mu.Unlock()
	slices.SortFunc(st.Pulls, func(a, b Progress) int { return a.From.Compare(b.From) })
	return st
}

// end counts a pull that has ended.
func (c *counters) end(err error) {
	outcome := "ok"
	if err != nil {
		outcome = strings.ReplaceAll(errdefs.Resolve(err).Error(), " ", "_")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended == nil {
		c.ended = map[string]uint64{}
	}
	c.ended[outcome]++
}

// pulls are those under way.
type pulls struct {
	mu   sync.Mutex
	open map[*transfer]bool
}

// transfer is what others may see of a pull.
type transfer struct {
	name string
	from time.Time

	mu     sync.Mutex
	layers []*incoming
}

// incoming is one layer that has to be fetched.
type incoming struct {
	size   int64
	arrive atomic.Int64
	done   atomic.Bool
}

func (s *Store) begin(name string) *transfer {
	t := &transfer{name: name, from: time.Now()}
	s.pulls.mu.Lock()
	defer s.pulls.mu.Unlock()
	s.pulls.open[t] = true
	return t
}

func (s *Store) end(t *transfer) {
	s.pulls.mu.Lock()
	defer s.pulls.mu.Unlock()
	delete(s.pulls.open, t)
}

// expect adds a layer.
func (t *transfer) expect(size int64) *incoming {
	in := &incoming{size: size}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.layers = append(t.layers, in)
	return in
}

func (t *transfer) progress() Progress {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := Progress{Name: t.name, From: t.from, Layers: len(t.layers)}
	for _, in := range t.layers {
		p.Total += in.size
		if in.done.Load() { // also those that another pull has brought in
			p.Fetched += in.size
			p.Done++
			continue
		}
		p.Fetched += min(in.arrive.Load(), in.size)
	}
	return p
}

// reportEvery is how often the log of a debugger tells how far a pull is.
const reportEvery = 5 * time.Second

// report logs how far the pull is until ctx ends.
func (p *pull) report(ctx context.Context) {
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			at := p.transfer.progress()
			p.reg.log.Debug("pull gets on", "image", at.Name, "bytes", at.Fetched, "of", at.Total, "layers", at.Done, "of_layers", at.Layers)
		}
	}
}
