package vmsandbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/sandbox"
	"github.com/cricket-cri/cricket/vmsandbox/agent"
)

// slowGuest takes its time to tell the figures of eight containers.
type slowGuest struct {
	agent.Guest
	takes  atomic.Int64 // a time.Duration
	panics atomic.Bool
	calls  atomic.Int32
}

func (g *slowGuest) Stat(ctx context.Context) (agent.Stat, error) {
	g.calls.Add(1)
	if g.panics.Load() {
		panic("as asked to")
	}
	select {
	case <-time.After(time.Duration(g.takes.Load())):
	case <-ctx.Done():
		return agent.Stat{}, ctx.Err()
	}
	s := agent.Stat{Containers: map[string]runtime.Stat{}}
	for i := range 8 {
		s.Containers[fmt.Sprint("c", i)] = runtime.Stat{}
	}
	return s, nil
}

// of is a pod with that guest.
func (g *slowGuest) of(t *testing.T) *pod {
	d := &Driver{opts: Options{State: t.TempDir(), Log: slog.New(slog.DiscardHandler)}}
	p := d.newPod(podState{Config: sandbox.Config{ID: "pod"}})
	p.machine = &Machine{Guest: g}
	t.Cleanup(func() { p.end(errStopped); p.watching.Wait() })
	return p
}

// statAll asks for all containers, one after the other, and tells how long it took.
func statAll(t *testing.T, p *pod) (took time.Duration, at time.Time, err error) {
	began := time.Now()
	for i := range 8 {
		var s runtime.Stat
		err = errors.Join(err, p.container(fmt.Sprint("c", i)).Stat(t.Context(), &s))
		at = s.At
	}
	return time.Since(began), at, err
}

// TestSilentGuest: who asks for the figures of a silent guest's containers waits once, and
// the guest is asked once in a while.
func TestSilentGuest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &slowGuest{}
		g.takes.Store(int64(time.Hour))
		p := g.of(t)
		for _, step := range []struct {
			after, takes time.Duration
			calls        int32
		}{
			{0, patience, 1},
			{callBudget - 2*patience, 0, 1},  // the call is still under way
			{2 * patience, 0, 1},             // it has failed
			{failureAge, patience, 2},        // not for ever
			{callBudget + time.Second, 0, 2}, // failed again
		} {
			time.Sleep(step.after)
			took, _, err := statAll(t, p)
			if took != step.takes || g.calls.Load() != step.calls || !errdefs.IsUnavailable(err) {
				t.Errorf("%+v: took %s and %d calls, %v", step, took, g.calls.Load(), err)
			}
		}
		g.takes.Store(int64(50 * time.Millisecond))
		time.Sleep(failureAge)
		took, at, err := statAll(t, p)
		if err != nil || took != 50*time.Millisecond || !at.Equal(time.Now()) {
			t.Errorf("a guest that answers again: %s, %v, %v", took, at, err)
		}
		time.Sleep(figuresAge / 2)
		if _, again, err := statAll(t, p); err != nil || !again.Equal(at) {
			t.Errorf("figures of %s are told to be of %s, %v", at, again, err)
		}
	})
}

// TestFiguresAreAwaitedWithContext: whoever leaves does not take the call along, and who
// waits beside him gets what it brings.
func TestFiguresAreAwaitedWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &slowGuest{}
		g.takes.Store(int64(time.Second))
		p := g.of(t)
		var wg sync.WaitGroup
		began := time.Now()
		for range 4 {
			wg.Go(func() {
				quick, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
				defer cancel()
				_, err := p.container("c0").DiskUsage(quick)
				if took := time.Since(began); took != 5*time.Millisecond || !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("took %s, %v", took, err)
				}
			})
			wg.Go(func() {
				if err := p.container("c0").Stat(t.Context(), &runtime.Stat{}); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if took := time.Since(began); took != time.Second || g.calls.Load() != 1 {
			t.Errorf("took %s and %d calls", took, g.calls.Load())
		}
	})
}

// TestEndOfPodEndsItsFigures: the pod's end waits for a call under way, which does not take
// long, and no other begins.
func TestEndOfPodEndsItsFigures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &slowGuest{}
		g.takes.Store(int64(time.Hour))
		p := g.of(t)
		_, _, _ = statAll(t, p)
		began := time.Now()
		p.end(errStopped)
		p.watching.Wait()
		if took := time.Since(began); took > 0 {
			t.Errorf("the call went on for %s", took)
		}
		time.Sleep(failureAge)
		if _, _, err := statAll(t, p); !errors.Is(err, errStopped) || g.calls.Load() != 1 {
			t.Errorf("%d calls, %v", g.calls.Load(), err)
		}
	})
}

// TestPanicOfFigures: the call has no RPC above it that would recover.
func TestPanicOfFigures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &slowGuest{}
		g.panics.Store(true)
		if _, _, err := statAll(t, g.of(t)); !errdefs.IsInternal(err) {
			t.Errorf("error is %v", err)
		}
	})
}
