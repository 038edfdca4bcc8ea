package cri

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/cri/store"
	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/sandbox"
)

// live holds the objects behind the records: what a record says is durable, what is
// here is how to talk to the thing. A record without a live object is one that nothing
// is left of on this machine.
type live struct {
	mu         sync.RWMutex
	sandboxes  map[string]sandbox.Sandbox
	containers map[string]*liveContainer
}

// liveContainer is a container that the drivers know.
type liveContainer struct {
	runtime.Container
	// exited is closed when the exit is in the record and its event is out.
	exited chan struct{}
	// telling is held from before the exit is in the record until plugins know of it.
	telling sync.Mutex

	mu       sync.Mutex
	signaled bool // the stop signal has been delivered
}

// signalOnce delivers the stop signal once, however many callers stop the container; one
// that was not delivered is sent again.
func (c *liveContainer) signalOnce(ctx context.Context, sig unix.Signal) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.signaled {
		return nil
	}
	err := c.Signal(ctx, sig)
	c.signaled = err == nil
	return err
}

// awaitTold returns when plugins know of an exit that is in the record.
func (c *liveContainer) awaitTold() {
	c.telling.Lock()
	defer c.telling.Unlock()
}

func newLive() *live {
	return &live{sandboxes: map[string]sandbox.Sandbox{}, containers: map[string]*liveContainer{}}
}

func (l *live) sandbox(id string) sandbox.Sandbox {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.sandboxes[id]
}

func (l *live) setSandbox(id string, sb sandbox.Sandbox) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sandboxes[id] = sb
}

func (l *live) forgetSandbox(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.sandboxes, id)
}

func (l *live) container(id string) *liveContainer {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.containers[id]
}

func (l *live) setContainer(id string, c runtime.Container) *liveContainer {
	lc := &liveContainer{Container: c, exited: make(chan struct{})}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.containers[id] = lc
	return lc
}

func (l *live) forgetContainer(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.containers, id)
}

func (l *live) allSandboxes() []sandbox.Sandbox {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return slices.Collect(maps.Values(l.sandboxes))
}

// behind finds what is behind the record of a container that was not adopted, in
// whichever sandbox it is; nil if nothing is left of it.
func (s *Server) behind(ctx context.Context, id string) (runtime.Container, error) {
	for _, sb := range s.live.allSandboxes() {
		c, err := sb.Container(ctx, id)
		if err == nil {
			return c, nil
		}
		if !errdefs.IsNotFound(err) {
			return nil, fmt.Errorf("find what is behind the record: %w", err)
		}
	}
	return nil, nil
}

// runningContainer finds a running container by id or unique prefix. Errors:
// errdefs.ErrNotFound, errdefs.ErrFailedPrecondition.
func (s *Server) runningContainer(id, verb string) (*store.Container, runtime.Container, error) {
	rec, err := s.store.Containers.Find(id)
	if err != nil {
		return nil, nil, err
	}
	if err := allow(verb, rec.State()); err != nil {
		return nil, nil, err
	}
	lc := s.live.container(rec.ID)
	if lc == nil {
		return nil, nil, fmt.Errorf("%s container: its monitor does not know it: %w", verb, errdefs.ErrUnavailable)
	}
	return rec, lc.Container, nil
}

// readySandbox finds a ready sandbox by id or unique prefix. Errors:
// errdefs.ErrNotFound, errdefs.ErrFailedPrecondition.
func (s *Server) readySandbox(id string) (*store.Sandbox, sandbox.Sandbox, error) {
	rec, err := s.store.Sandboxes.Find(id)
	if err != nil {
		return nil, nil, err
	}
	sb := s.live.sandbox(rec.ID)
	if !rec.Ready() || sb == nil {
		return nil, nil, fmt.Errorf("sandbox is not ready: %w", errdefs.ErrFailedPrecondition)
	}
	return rec, sb, nil
}
