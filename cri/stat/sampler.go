// Package stat is the node's one sampler of resource figures: stats RPCs and metrics
// are answered from it.
//
// A figure is read when somebody asks for it and answered again for a short while
// (Options.MaxAge), so many askers cost one reading and an idle node costs nothing.
// What a writable layer occupies is expensive to know: it is measured in the
// background, and small layers at once when they are first asked for.
package stat

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/sandbox"
)

const (
	// parallel is how many figures are read at once: reading them is mostly system
	// calls, and the node has better to do.
	parallel = 4
	// slow is how long a reading counts as one of them. One that takes longer does not use
	// the processor: it waits, as for a guest that is silent, and others need not.
	slow = 50 * time.Millisecond
	// deadline is how long the figures of one target may take: lists answer without those
	// that are not there by then.
	deadline = 4 * time.Second
	// shortest is the time over which a rate of CPU usage still means something.
	shortest = 50 * time.Millisecond
)

var errLate = fmt.Errorf("no figures within %s: %w", deadline, errdefs.ErrUnavailable)

// Options of a Sampler.
type Options struct {
	// MaxAge is how old an answer may be. Default 1 s.
	MaxAge time.Duration
	// DiskInterval is how often the disk usage of a writable layer is measured.
	// Default 1 minute.
	DiskInterval time.Duration
}

// Target is something with figures: a container or a sandbox.
type Target struct {
	ID string
	// Since is when its CPU time was zero, the base of the first rate.
	Since time.Time
	// Read fills the figures in, or fails when ctx ends. Containers leave Network empty.
	Read func(ctx context.Context, s *sandbox.Stat) error
}

// Container is the Target of a container.
func Container(id string, since time.Time, c runtime.Container) Target {
	return Target{ID: id, Since: since, Read: func(ctx context.Context, s *sandbox.Stat) error {
		return c.Stat(ctx, &s.Stat)
	}}
}

// Sandbox is the Target of a sandbox.
func Sandbox(id string, since time.Time, sb sandbox.Sandbox) Target {
	return Target{ID: id, Since: since, Read: sb.Stat}
}

// Sample is what is known of a target.
type Sample struct {
	sandbox.Stat
	// NanoCores is the CPU time consumed a second, in nanoseconds, between the last
	// two readings (the first one: since Target.Since). Nil if it is not known.
	NanoCores *uint64
}

// Result is one answer of All.
type Result struct {
	Sample
	Err error
}

// Sampler reads and remembers figures. All methods are safe for concurrent use.
type Sampler struct {
	opts Options
	now  func() time.Time
	mu   sync.Mutex
	by   map[string]*entry
	disk *disks
}

// entry is what is remembered of one target. Whoever holds turn may read and write it.
type entry struct {
	turn   chan struct{}
	sample Sample
}

// New makes a sampler that remembers nothing.
func New(o Options) *Sampler {
	if o.MaxAge <= 0 {
		o.MaxAge = time.Second
	}
	if o.DiskInterval <= 0 {
		o.DiskInterval = time.Minute
	}
	return &Sampler{opts: o, now: time.Now, by: map[string]*entry{}, disk: &disks{by: map[string]*runtime.DiskUsage{}}}
}

// Get answers the figures of t, at most Options.MaxAge old. Errors are those of
// t.Read, or ctx's. Figures that are late are errdefs.ErrUnavailable: what was read
// before is not told instead.
func (s *Sampler) Get(ctx context.Context, t Target) (Sample, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, deadline, errLate)
	defer cancel()
	e := s.entry(t.ID)
	select {
	case e.turn <- struct{}{}:
		defer func() { <-e.turn }()
	case <-ctx.Done():
		return Sample{}, context.Cause(ctx)
	}
	if !e.sample.At.IsZero() && s.now().Sub(e.sample.At) < s.opts.MaxAge {
		return e.sample, nil
	}
	var fresh Sample
	if err := t.Read(ctx, &fresh.Stat); err != nil {
		return Sample{}, err
	}
	if fresh.At.IsZero() {
		fresh.At = s.now()
	}
	if fresh.At.Equal(e.sample.At) { // the same reading again: it has no rate to itself
		return e.sample, nil
	}
	fresh.NanoCores = rate(e.sample, fresh, t.Since)
	e.sample = fresh
	return fresh, nil
}

// All answers the figures of every target, in order. It takes hardly longer for many that
// are silent than for one, and the figures of the others are not older for it.
func (s *Sampler) All(ctx context.Context, targets []Target) []Result {
	results := make([]Result, len(targets))
	began := s.now()
	s.renew(ctx, targets, results)
	if s.now().Sub(began) >= s.opts.MaxAge { // what was read first has aged meanwhile
		s.renew(ctx, targets, results)
	}
	return results
}

// renew reads what is older than Options.MaxAge, except what has failed.
func (s *Sampler) renew(ctx context.Context, targets []Target, results []Result) {
	Each(len(targets), func(i int) {
		r := &results[i]
		if r.Err == nil && s.now().Sub(r.At) >= s.opts.MaxAge {
			r.Sample, r.Err = s.Get(ctx, targets[i])
		}
	})
}

// Each calls f with every number below n, a few at a time as figures are read. f gives up
// its place when it takes long.
func Each(n int, f func(i int)) {
	turns := make(chan struct{}, parallel)
	var wg sync.WaitGroup
	for i := range n {
		turns <- struct{}{}
		wg.Go(func() {
			next := sync.OnceFunc(func() { <-turns })
			defer next()
			defer time.AfterFunc(slow, next).Stop()
			f(i)
		})
	}
	wg.Wait()
}

func (s *Sampler) entry(id string) *entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.by[id]
	if e == nil {
		e = &entry{turn: make(chan struct{}, 1)}
		s.by[id] = e
	}
	return e
}

// rate is CPU nanoseconds a second from one sample to the next. A counter that went
// back (the target was made anew) has no rate.
func rate(last, next Sample, since time.Time) *uint64 {
	from, used := last.At, last.CPUNanos
	if from.IsZero() || used == nil {
		zero := uint64(0)
		from, used = since, &zero
	}
	took := next.At.Sub(from)
	if from.IsZero() || next.CPUNanos == nil || *next.CPUNanos < *used || took < shortest {
		return nil
	}
	cores := uint64(float64(*next.CPUNanos-*used) / took.Seconds())
	return &cores
}

// Run measures writable layers in the background and forgets what is gone, until ctx
// ends. live lists every container and sandbox there is.
func (s *Sampler) Run(ctx context.Context, live func() []Live) {
	tick := time.NewTicker(s.opts.DiskInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := live()
		s.forgetOthers(now)
		s.disk.measure(ctx, now)
	}
}

func (s *Sampler) forgetOthers(live []Live) {
	keep := make(map[string]bool, len(live))
	for _, l := range live {
		keep[l.ID] = true
	}
	s.mu.Lock()
	for id := range s.by {
		if !keep[id] {
			delete(s.by, id)
		}
	}
	s.mu.Unlock()
	s.disk.forgetOthers(keep)
}

// Disk is what a container's writable layer occupies, as last measured; nil if that is
// not known yet. It never takes long.
func (s *Sampler) Disk(ctx context.Context, l Live) *runtime.DiskUsage {
	return s.disk.get(ctx, l)
}

// AwaitDisk is Disk, but that it measures, until ctx ends, what was never measured.
func (s *Sampler) AwaitDisk(ctx context.Context, l Live) *runtime.DiskUsage {
	return s.disk.await(ctx, l)
}
