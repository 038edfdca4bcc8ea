// Package event carries what happens to sandboxes and containers to whoever listens.
package event

import (
	"fmt"
	"sync"

	"github.com/containerd/errdefs"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// backlog is how many events a subscriber may be behind.
const backlog = 1024

// Bus hands every event to every subscriber in the order in which they were published.
// Publishing never blocks: a subscriber that is too far behind is dropped, and learns
// of it, so that it lists anew instead of missing events silently.
type Bus struct {
	mu     sync.Mutex
	subs   map[*Subscription]struct{}
	closed bool
}

// Subscription is one subscriber's queue.
type Subscription struct {
	bus    *Bus
	events chan *v1.ContainerEventResponse
	err    error // set before events is closed
}

// NewBus makes a bus without subscribers.
func NewBus() *Bus { return &Bus{subs: map[*Subscription]struct{}{}} }

// Publish hands the event that build makes to all subscribers. build is called under
// the bus's lock, so what it reads is at least as new as in every event before it; it
// must not block, and is not called at all if nobody listens. Nobody may change the
// event afterwards.
func (b *Bus) Publish(build func() *v1.ContainerEventResponse) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.subs) == 0 {
		return
	}
	e := build()
	for s := range b.subs {
		select {
		case s.events <- e:
		default:
			b.drop(s, fmt.Errorf("receive events: more than %d behind: %w", backlog, errdefs.ErrResourceExhausted))
		}
	}
}

// Subscribe starts a subscription to the events from now on.
func (b *Bus) Subscribe() *Subscription {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := &Subscription{bus: b, events: make(chan *v1.ContainerEventResponse, backlog)}
	b.subs[s] = struct{}{}
	if b.closed {
		b.drop(s, errClosed)
	}
	return s
}

var errClosed = fmt.Errorf("receive events: the runtime is shutting down: %w", errdefs.ErrUnavailable)

// Close ends all subscriptions.
func (b *Bus) Close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	for s := range b.subs {
		b.drop(s, errClosed)
	}
}

// drop ends a subscription; the caller holds the lock.
func (b *Bus) drop(s *Subscription, err error) {
	if _, ok := b.subs[s]; !ok {
		return
	}
	delete(b.subs, s)
	s.err = err
	close(s.events)
}

// Events delivers the events. It is closed at the end of the subscription; Err says why.
func (s *Subscription) Events() <-chan *v1.ContainerEventResponse { return s.events }

// Err is why the subscription ended. It must not be called before Events is closed.
func (s *Subscription) Err() error { return s.err }

// Cancel ends the subscription. It is idempotent.
func (s *Subscription) Cancel() {
	s.bus.mu.Lock()
	defer s.bus.mu.Unlock()
	s.bus.drop(s, nil)
}
