package stat

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

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

func TestDisk(t *testing.T) {
	root := t.TempDir()
	s := New(Options{DiskInterval: 10 * time.Millisecond, Upper: func(id string) string { return filepath.Join(root, id) }})
	if got := s.Disk("a"); got != nil {
		t.Errorf("missing layer: %+v", got)
	}
	if err := os.MkdirAll(filepath.Join(root, "a", "dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(root, "a", "dir", "file")
	if err := os.WriteFile(file, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(file, file+"2"); err != nil {
		t.Fatal(err)
	}
	got := s.Disk("a")
	if got == nil || got.Inodes != 3 || got.Bytes < 1<<20 || got.Bytes > 1<<20+16<<10 {
		t.Fatalf("usage = %+v", got)
	}
	if err := os.Mkdir(filepath.Join(root, "big"), 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range small + 10 {
		if err := os.WriteFile(filepath.Join(root, "big", fmt.Sprint(i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := s.Disk("big"); got != nil {
		t.Errorf("a big layer was counted while the caller waits: %+v", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	rounds := 0
	s.Run(ctx, func() (containers, sandboxes []string) {
		if rounds++; rounds == 3 {
			cancel()
		}
		return []string{"big"}, nil
	})
	if got := s.Disk("big"); got == nil || got.Inodes != small+11 {
		t.Errorf("big layer after the background count: %+v", got)
	}
	if len(s.disk.by) != 1 {
		t.Errorf("what is gone is remembered: %v", s.disk.by)
	}
}
