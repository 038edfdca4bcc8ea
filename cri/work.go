package cri

import (
	"context"
	"sync"
	"time"

	"github.com/cricket-cri/cricket/runtime/flow"
)

// work owns the goroutines that outlive a request: waiters for exits, and the
// reconciler. They end when stop is called.
type work struct {
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	wake   chan struct{} // has room for one
}

// newWork makes the owner of nothing yet. t, which may be nil, traces what is started.
func newWork(t flow.Tracer) *work {
	ctx := context.Background()
	if t != nil {
		ctx = flow.WithTracer(ctx, t)
	}
	ctx, cancel := context.WithCancel(ctx)
	return &work{ctx: ctx, cancel: cancel, wake: make(chan struct{}, 1)}
}

// start runs f until it returns; its context ends with stop.
func (w *work) start(f func(ctx context.Context)) {
	w.wg.Go(func() { f(w.ctx) })
}

// hurry lets the reconciler begin its next round soon. It never blocks.
func (w *work) hurry() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// pause returns after a time, or sooner if there is hurry; with false if ctx has ended.
func (w *work) pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	wake := w.wake
	for {
		select {
		case <-ctx.Done():
			return false
		case <-t.C:
			return true
		case <-wake:
			wake = nil
			t.Reset(min(d, reconcileSoon)) // one round for many who are in a hurry
		}
	}
}

func (w *work) stop() {
	w.cancel()
	w.wg.Wait()
}
