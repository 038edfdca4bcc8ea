package image

import (
	"context"
	"fmt"
	"sync"
)

// calls are the pulls under way, by name and credential.
type calls struct {
	mu   sync.Mutex
	open map[string]*call
}

// call is one pull and those who wait for it.
type call struct {
	waiting int
	cancel  context.CancelFunc
	done    chan struct{} // closed when image and err are set
	image   Image
	err     error
}

// join waits for the call under that key, which it starts if there is none. The last
// who gives up cancels the call and waits until it has cleaned up.
func (c *calls) join(ctx context.Context, key string, do func(context.Context) (Image, error)) (Image, error) {
	if err := ctx.Err(); err != nil {
		return Image{}, err
	}
	call := c.enter(ctx, key, do)
	select {
	case <-call.done:
		return call.image, call.err
	case <-ctx.Done():
		if c.leave(key, call) {
			<-call.done
		}
		return Image{}, fmt.Errorf("wait for pull: %w", ctx.Err())
	}
}

func (c *calls) enter(ctx context.Context, key string, do func(context.Context) (Image, error)) *call {
	c.mu.Lock()
	defer c.mu.Unlock()
	if running, ok := c.open[key]; ok {
		running.waiting++
		return running
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	started := &call{waiting: 1, cancel: cancel, done: make(chan struct{})}
	c.open[key] = started
	go func() {
		defer cancel()
		defer close(started.done)
		defer c.end(key, started)
		defer recovered(&started.err) // nobody else could: this goroutine is nobody's request
		started.image, started.err = do(ctx)
	}()
	return started
}

// leave says whether the one who leaves was the last.
func (c *calls) leave(key string, of *call) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	of.waiting--
	if of.waiting > 0 {
		return false
	}
	if c.open[key] == of { // nobody joins a pull that is being cancelled
		delete(c.open, key)
	}
	of.cancel()
	return true
}

func (c *calls) end(key string, of *call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open[key] == of {
		delete(c.open, key)
	}
}
