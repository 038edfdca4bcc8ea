package layer

import (
	"context"
	"sync"
)

// locks holds a lock per name, for as long as somebody holds or awaits it.
type locks struct {
	mu   sync.Mutex
	held map[string]*lock
}

type lock struct {
	token chan struct{} // of capacity 1: full while the lock is held
	users int
}

// acquire waits for the lock of name until ctx ends. release must be called once.
func (l *locks) acquire(ctx context.Context, name string) (release func(), err error) {
	l.mu.Lock()
	k := l.join(name)
	l.mu.Unlock()
	select {
	case k.token <- struct{}{}:
		return func() { <-k.token; l.leave(name, k) }, nil
	case <-ctx.Done():
		l.leave(name, k)
		return nil, ctx.Err()
	}
}

// try takes the lock of name if nobody holds or awaits it. release must be called once.
func (l *locks) try(name string) (release func(), ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held[name] != nil {
		return nil, false
	}
	k := l.join(name)
	k.token <- struct{}{} // there is room: it is new
	return func() { <-k.token; l.leave(name, k) }, true
}

// join returns the lock of name with one user more; l.mu is held.
func (l *locks) join(name string) *lock {
	if l.held == nil {
		l.held = map[string]*lock{}
	}
	k := l.held[name]
	if k == nil {
		k = &lock{token: make(chan struct{}, 1)}
		l.held[name] = k
	}
	k.users++
	return k
}

func (l *locks) leave(name string, k *lock) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if k.users--; k.users == 0 {
		delete(l.held, name)
	}
}
