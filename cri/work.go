package cri

import (
	"context"
	"sync"
)

// work owns the goroutines that outlive a request: waiters for exits, and the
// reconciler. They end when stop is called.
type work struct {
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

func newWork() *work {
	ctx, cancel := context.WithCancel(context.Background())
	return &work{ctx: ctx, cancel: cancel}
}

// start runs f until it returns; its context ends with stop.
func (w *work) start(f func(ctx context.Context)) {
	w.wg.Go(func() { f(w.ctx) })
}

func (w *work) stop() {
	w.cancel()
	w.wg.Wait()
}
