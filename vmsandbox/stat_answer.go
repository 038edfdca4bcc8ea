package vmsandbox

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/vmsandbox/agent"
)

const (
	// figuresAge is how long a guest's figures serve: one answer has those of all containers,
	// which are asked for one by one.
	figuresAge = 300 * time.Millisecond
	// failureAge is how long a guest is not asked again that did not answer, or with an error:
	// whoever asks for a container after the other is told so at once.
	failureAge = 5 * time.Second
	// patience is how long a guest is waited for. A healthy one takes 100 ms, emulated, and a
	// second or two on a loaded host.
	patience = 3 * time.Second
)

// errNoFigures is what those are told who ask a guest that has been asked, and is silent.
var errNoFigures = fmt.Errorf("guest has not answered for %s: %w", patience, errdefs.ErrUnavailable)

type figures struct {
	stat      answer[agent.Stat]
	processes answer[map[string]runtime.ProcessStat]
}

// guestStat asks the guest for the figures of all its containers.
func (p *pod) guestStat(ctx context.Context) (*said[agent.Stat], error) {
	return p.figures.stat.fresh(ctx, p, agent.Guest.Stat)
}

// answer is what a guest has said last. All who ask at the same time share one call.
type answer[T any] struct {
	mu   sync.Mutex
	last *said[T]
}

// said is what a guest says to one call. All but asked is to be read when done is closed.
type said[T any] struct {
	asked time.Time
	done  chan struct{}
	at    time.Time
	value T
	err   error
}

// fresh is the last answer, or a new one. Whoever waits for it leaves with ctx, or when
// patience has passed since the guest was asked; the call itself goes on, so that no other
// begins beside it, and what it brings is there for the next one.
func (a *answer[T]) fresh(ctx context.Context, p *pod, ask func(agent.Guest, context.Context) (T, error)) (*said[T], error) {
	s, err := a.latest(ctx, p, ask)
	if err != nil {
		return nil, fmt.Errorf("measure guest: %w", err)
	}
	ctx, cancel := context.WithDeadlineCause(ctx, s.asked.Add(patience), errNoFigures)
	defer cancel()
	select {
	case <-s.done:
	case <-ctx.Done():
	}
	if !s.over() { // an answer that is there serves those, too, whose time is over
		return nil, fmt.Errorf("measure guest: %w", context.Cause(ctx))
	}
	if s.err != nil {
		return nil, fmt.Errorf("measure guest: %w", s.err)
	}
	return s, nil
}

// latest is the last answer or the one under way, as long as it serves; else the guest is
// asked, for longer than ctx if need be.
func (a *answer[T]) latest(ctx context.Context, p *pod, ask func(agent.Guest, context.Context) (T, error)) (*said[T], error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.last != nil && a.last.serves() {
		return a.last, nil
	}
	s := &said[T]{asked: time.Now(), done: make(chan struct{})}
	ctx = context.WithoutCancel(ctx)
	if err := p.beside(func() { s.hear(ctx, p, ask) }); err != nil {
		return nil, err
	}
	a.last = s
	return s, nil
}

// hear asks the guest. What it answers must not take the daemon along, and no RPC's recover
// is above this.
func (s *said[T]) hear(ctx context.Context, p *pod, ask func(agent.Guest, context.Context) (T, error)) {
	defer close(s.done)
	defer func() {
		if r := recover(); r != nil {
			s.err = fmt.Errorf("panic: %v: %w", r, errdefs.ErrInternal)
			p.driver.opts.Log.Error("panic", "sandbox", p.id, "panic", r, "stack", string(debug.Stack()))
		}
		s.at = time.Now()
	}()
	s.err = p.guest(ctx, callBudget, func(ctx context.Context) (err error) {
		s.value, err = ask(p.machine.Guest, ctx)
		return err
	})
}

// over says whether the guest has answered, or will not any more.
func (s *said[T]) over() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// serves says whether the guest need not be asked again.
func (s *said[T]) serves() bool {
	if !s.over() {
		return true
	}
	age := figuresAge
	if s.err != nil {
		age = failureAge
	}
	return time.Since(s.at) < age
}

// beside runs f for somebody who need not wait for it. Who ends the pod does: nothing begins
// after that.
func (p *pod) beside(f func()) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failure != nil {
		return p.failure
	}
	p.watching.Go(f)
	return nil
}
