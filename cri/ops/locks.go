package ops

import (
	"context"
	"math"
	"sync"

	"golang.org/x/sync/semaphore"
)

// Locks serialise what is done to one object, by its id. Waiting for a lock ends with
// the context.
type Locks struct {
	mu sync.Mutex
	by map[string]*lock
}

type lock struct {
	sem   *semaphore.Weighted
	users int // holders and waiters; the last one removes the lock
}

// NewLocks makes an empty set.
func NewLocks() *Locks { return &Locks{by: map[string]*lock{}} }

// Exclusive waits until nobody else holds the lock of id.
func (l *Locks) Exclusive(ctx context.Context, id string) (unlock func(), err error) {
	return l.acquire(ctx, id, math.MaxInt64)
}

// Shared waits until nobody holds the lock of id exclusively. It does not overtake an
// Exclusive that waits.
func (l *Locks) Shared(ctx context.Context, id string) (unlock func(), err error) {
	return l.acquire(ctx, id, 1)
}

// Held says whether anybody holds or waits for the lock of id.
func (l *Locks) Held(id string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.by[id] != nil
}

func (l *Locks) acquire(ctx context.Context, id string, n int64) (func(), error) {
	l.mu.Lock()
	k := l.by[id]
	if k == nil {
		k = &lock{sem: semaphore.NewWeighted(math.MaxInt64)}
		l.by[id] = k
	}
	k.users++
	l.mu.Unlock()
	if err := k.sem.Acquire(ctx, n); err != nil {
		l.release(id, k)
		return nil, err
	}
	return func() {
		k.sem.Release(n)
		l.release(id, k)
	}, nil
}

func (l *Locks) release(id string, k *lock) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k.users--
	if k.users == 0 {
		delete(l.by, id)
	}
}
