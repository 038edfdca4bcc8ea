package stat

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/sandbox"
)

// counter is a target whose CPU time the test sets.
type counter struct {
	cpu   atomic.Uint64
	reads atomic.Int32
	err   error
}

func (c *counter) target(id string, since time.Time) Target {
	return Target{ID: id, Since: since, Read: func(_ context.Context, s *sandbox.Stat) error {
		c.reads.Add(1)
		cpu := c.cpu.Load()
		s.CPUNanos = &cpu
		return c.err
	}}
}

func TestRatesAndAge(t *testing.T) {
	now := time.Unix(1000, 0)
	s := New(Options{MaxAge: time.Second})
	s.now = func() time.Time { return now }
	var c counter
	tgt := c.target("a", now.Add(-10*time.Second))
	for _, step := range []struct {
		after time.Duration
		cpu   uint64
		reads int32
		want  any
	}{
		{0, 5e9, 1, uint64(5e8)},                         // 5 s of CPU in the 10 s since the start
		{time.Second / 2, 6e9, 1, uint64(5e8)},           // still fresh
		{time.Second / 2, 7e9, 2, uint64(2e9)},           // 2 s in 1 s
		{10 * time.Second, 7e9 + 1e9, 3, uint64(1e8)},    // 1 s in 10 s
		{10 * time.Second, 1e9, 4, nil},                  // went back: made anew
		{2 * time.Second, 1e9 + 1e9, 5, uint64(1e9 / 2)}, // and on from there
	} {
		now = now.Add(step.after)
		c.cpu.Store(step.cpu)
		got, err := s.Get(t.Context(), tgt)
		if err != nil {
			t.Fatal(err)
		}
		if c.reads.Load() != step.reads {
			t.Errorf("%+v: %d reads", step, c.reads.Load())
		}
		switch {
		case step.want == nil && got.NanoCores != nil:
			t.Errorf("%+v: rate %d", step, *got.NanoCores)
		case step.want != nil && (got.NanoCores == nil || *got.NanoCores != step.want):
			t.Errorf("%+v: got %v", step, got.NanoCores)
		}
	}
}

func TestAllSharesReadingsAndKeepsOrder(t *testing.T) {
	s := New(Options{MaxAge: time.Minute})
	cs := make([]counter, 30)
	var targets []Target
	for i := range cs {
		cs[i].cpu.Store(uint64(i))
		targets = append(targets, cs[i].target(fmt.Sprint(i), time.Time{}))
	}
	cs[7].err = errors.New("no such cgroup")
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			for i, r := range s.All(t.Context(), targets) {
				if i == 7 {
					if r.Err == nil {
						t.Error("the failure is not reported")
					}
				} else if r.Err != nil || *r.CPUNanos != uint64(i) {
					t.Errorf("%d: %+v", i, r)
				}
			}
		})
	}
	wg.Wait()
	for i := range cs {
		if n := cs[i].reads.Load(); i != 7 && n != 1 {
			t.Errorf("%d was read %d times", i, n)
		}
	}
}

func TestWaitingEndsWithTheContext(t *testing.T) {
	s := New(Options{})
	block, reading := make(chan struct{}), make(chan struct{})
	slow := Target{ID: "a", Read: func(context.Context, *sandbox.Stat) error {
		close(reading)
		<-block
		return nil
	}}
	done := make(chan struct{})
	go func() { s.Get(t.Context(), slow); close(done) }()
	<-reading
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Get(ctx, slow); !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v", err)
	}
	close(block)
	<-done
}

// silent is a target that answers once, and then takes 10 s.
func silent(id string) Target {
	var reads atomic.Int32
	return Target{ID: id, Read: func(ctx context.Context, _ *sandbox.Stat) error {
		if reads.Add(1) == 1 {
			return nil
		}
		select {
		case <-time.After(10 * time.Second):
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}}
}

// TestSilentTargets: lists answer in time, without what is silent and with figures of the
// others that are as new as they say.
func TestSilentTargets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{})
		var c counter
		targets := []Target{c.target("first", time.Time{})}
		for i := range 20 {
			targets = append(targets, silent(fmt.Sprint(i)))
		}
		targets = append(targets, c.target("last", time.Time{}))
		for _, r := range s.All(t.Context(), targets) {
			if r.Err != nil {
				t.Fatal(r.Err)
			}
		}
		time.Sleep(time.Minute)
		began := time.Now()
		results := s.All(t.Context(), targets)
		if took := time.Since(began); took > deadline+time.Second {
			t.Errorf("took %s", took)
		}
		for i, r := range results {
			switch target := targets[i].ID; {
			case target == "first" || target == "last":
				if age := time.Since(r.At); r.Err != nil || age > s.opts.MaxAge {
					t.Errorf("%s: figures of %s ago, %v", target, age, r.Err)
				}
			case !errdefs.IsUnavailable(r.Err) || !r.At.IsZero():
				t.Errorf("%s is silent: figures of %s, %v", target, r.At, r.Err)
			}
		}
	})
}

// TestRepeatedReading: a reading that is told twice keeps its time and its rate.
func TestRepeatedReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{})
		at, cpu := time.Now(), uint64(1e9)
		guest := Target{ID: "a", Since: at.Add(-time.Second), Read: func(_ context.Context, s *sandbox.Stat) error {
			s.At, s.CPUNanos = at, &cpu
			return nil
		}}
		for range 2 {
			if got, err := s.Get(t.Context(), guest); err != nil || !got.At.Equal(at) || got.NanoCores == nil || *got.NanoCores != 1e9 {
				t.Errorf("%+v, %v", got, err)
			}
			time.Sleep(2 * time.Second)
		}
	})
}

// layer is a writable layer that takes a while to measure.
type layer struct {
	takes time.Duration
	err   error
	calls atomic.Int32
	part  runtime.DiskUsage // what is counted when the time is over
}

func (l *layer) DiskUsage(ctx context.Context) (runtime.DiskUsage, error) {
	l.calls.Add(1)
	select {
	case <-time.After(l.takes):
		return runtime.DiskUsage{At: time.Now(), Bytes: 4096, Inodes: uint64(l.calls.Load())}, l.err
	case <-ctx.Done():
		return l.part, ctx.Err()
	}
}

func TestDisk(t *testing.T) {
	s := New(Options{DiskInterval: 10 * time.Millisecond})
	fast, slow, gone := &layer{}, &layer{takes: 50 * time.Millisecond}, &layer{err: errors.New("no such container")}
	for range 2 {
		if u := s.Disk(t.Context(), Live{"fast", fast}); u == nil || u.Inodes != 1 {
			t.Errorf("fast: %+v", u)
		}
		if u := s.Disk(t.Context(), Live{"slow", slow}); u != nil {
			t.Errorf("slow: %+v", u)
		}
		if u := s.Disk(t.Context(), Live{"gone", gone}); u != nil {
			t.Errorf("gone: %+v", u)
		}
	}
	if fast.calls.Load() != 1 || slow.calls.Load() != 1 || gone.calls.Load() != 2 {
		t.Errorf("measured %d, %d and %d times", fast.calls.Load(), slow.calls.Load(), gone.calls.Load())
	}
	ctx, cancel := context.WithCancel(t.Context())
	rounds := 0
	s.Run(ctx, func() []Live {
		if rounds++; rounds == 3 {
			cancel()
		}
		return []Live{{"slow", slow}, {ID: "sandbox"}}
	})
	if u := s.Disk(t.Context(), Live{"slow", slow}); u == nil || u.Inodes < 2 {
		t.Errorf("slow layer after the background measured it: %+v", u)
	}
	if len(s.disk.by) != 1 {
		t.Errorf("what is gone is remembered: %v", s.disk.by)
	}
}

// TestAwaitDisk: who can wait gets the first measurement, also of a layer that another has left
// to the background, and none that takes longer than they wait.
func TestAwaitDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{})
		slow, endless := &layer{takes: time.Second}, &layer{takes: 24 * time.Hour}
		if u := s.Disk(t.Context(), Live{"slow", slow}); u != nil {
			t.Errorf("without waiting: %+v", u)
		}
		for range 2 {
			if u := s.AwaitDisk(t.Context(), Live{"slow", slow}); u == nil || u.Bytes != 4096 || slow.calls.Load() != 2 {
				t.Errorf("%+v, measured %d times", u, slow.calls.Load())
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if u := s.AwaitDisk(ctx, Live{"endless", endless}); u != nil {
			t.Errorf("endless: %+v", u)
		}
		if u := s.AwaitDisk(t.Context(), Live{ID: "sandbox"}); u != nil {
			t.Errorf("without a layer: %+v", u)
		}
	})
}

// TestEndlessLayer: a layer that takes too long to measure does not keep the others from
// it, and has at least what could be counted of it.
func TestEndlessLayer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{})
		endless, other := &layer{takes: 24 * time.Hour}, &layer{takes: time.Second}
		live := []Live{{"endless", endless}, {"other", other}}
		for _, l := range live {
			if u := s.Disk(t.Context(), l); u != nil {
				t.Errorf("%s: %+v", l.ID, u)
			}
		}
		for _, c := range []struct{ part, want runtime.DiskUsage }{
			{runtime.DiskUsage{}, runtime.DiskUsage{}},
			{runtime.DiskUsage{Bytes: 10, Inodes: 2}, runtime.DiskUsage{Bytes: 10, Inodes: 2}},
			{runtime.DiskUsage{Bytes: 5, Inodes: 1}, runtime.DiskUsage{Bytes: 10, Inodes: 2}},
			{runtime.DiskUsage{Bytes: 20, Inodes: 1}, runtime.DiskUsage{Bytes: 20, Inodes: 2}},
		} {
			endless.part = c.part
			began := time.Now()
			s.disk.measure(t.Context(), live)
			if took := time.Since(began); took > longest+2*time.Second {
				t.Errorf("measured for %s", took)
			}
			got := runtime.DiskUsage{}
			if u := s.Disk(t.Context(), live[0]); u != nil {
				got = *u
			}
			if got != c.want {
				t.Errorf("after %+v: %+v, want %+v", c.part, got, c.want)
			}
			if u := s.Disk(t.Context(), live[1]); u == nil || !u.At.Equal(time.Now()) {
				t.Errorf("other: %+v", u)
			}
		}
		endless.takes = time.Second
		s.disk.measure(t.Context(), live)
		if u := s.Disk(t.Context(), live[0]); u == nil || u.Bytes != 4096 {
			t.Errorf("measured to the end: %+v", u)
		}
	})
}
