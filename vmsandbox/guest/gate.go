package guest

import (
	"context"
	"os"
	"sync"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cricket-cri/cricket/runtime/monitor"
)

// gate keeps processes from being started in containers that are frozen: whoever starts
// one waits until it has executed its program, which a process in a frozen cgroup does not,
// and with one processor everything else in this process waits too.
type gate struct {
	mu    sync.Mutex
	doors map[string]*door
}

type door struct {
	// starting is shared by those who start a process, and held while the door is closed.
	starting sync.RWMutex
	closed   bool // guarded by gate.mu
}

func (g *gate) door(id string) *door {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.doors == nil {
		g.doors = map[string]*door{}
	}
	d := g.doors[id]
	if d == nil {
		d = &door{}
		g.doors[id] = d
	}
	return d
}

// close waits for those who are starting a process. It is idempotent.
func (g *gate) close(ctx context.Context, id string) error {
	d := g.door(id)
	g.mu.Lock()
	closed := d.closed
	g.mu.Unlock()
	if closed {
		return nil
	}
	for !d.starting.TryLock() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(frozenPause):
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	d.closed = true
	return nil
}

// open is idempotent.
func (g *gate) open(id string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if d := g.doors[id]; d != nil && d.closed {
		d.closed = false
		d.starting.Unlock()
	}
}

// forget opens a door for good.
func (g *gate) forget(id string) {
	g.open(id)
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.doors, id)
}

// gated is an executor that starts nothing behind closed doors.
type gated struct {
	monitor.Executor
	gate *gate
}

// Exec waits while the container is frozen.
func (x gated) Exec(id string, p *specs.Process, stdio [3]*os.File) (monitor.Process, error) {
	d := x.gate.door(id)
	d.starting.RLock()
	defer d.starting.RUnlock()
	return x.Executor.Exec(id, p, stdio)
}

// Delete ends the container, frozen or not.
func (x gated) Delete(id string) error {
	err := x.Executor.Delete(id)
	if err == nil {
		x.gate.forget(id)
	}
	return err
}
