package cri

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/cricket-cri/cricket/cri/store"
	"github.com/cricket-cri/cricket/runtime/checkpoint"
)

const (
	// reconcileInterval is the time between two rounds of reconciliation.
	reconcileInterval = 2 * time.Minute
	// reconcileSoon is the time to the next round where there is something to be done.
	reconcileSoon = time.Second
	// actionBudget bounds one action, so that one sandbox that is stuck does not keep
	// the daemon from serving the others.
	actionBudget = 20 * time.Second
	// actionsAtOnce is how many sandboxes or containers are adopted at the same time.
	actionsAtOnce = 16
)

// Recover makes records and machine agree after a start, and keeps them so until Close.
// What cannot be brought to agree is logged and tried again: it never keeps the daemon
// from starting.
func (s *Server) Recover(ctx context.Context) {
	began := time.Now()
	if err := checkpoint.Sweep(s.opts.CheckpointDir); err != nil {
		s.log.Warn("an interrupted checkpoint is not removed", "error", err)
	}
	n, again := s.reconcileOnce(ctx)
	s.log.Info("recovered", "sandboxes", len(s.store.Sandboxes.List()),
		"containers", len(s.store.Containers.List()), "actions", n, "took", time.Since(began))
	s.work.start(func(ctx context.Context) {
		pace := pace{}
		for {
			s.releaseLost(ctx)
			if !s.work.pause(ctx, pace.next(again)) {
				return
			}
			_, again = s.reconcileOnce(ctx)
		}
	})
}

// pace spaces rounds of reconciliation: after one that left something undone the next
// comes soon, but ever later while that goes on.
type pace struct{ wait time.Duration }

func (p *pace) next(again bool) time.Duration {
	p.wait = min(max(2*p.wait, reconcileSoon), reconcileInterval)
	if !again {
		p.wait = 0
		return reconcileInterval
	}
	return p.wait
}

// releaseLost gives back the addresses of sandboxes that a reboot has ended. The kubelet
// stops them only when it gets to it, and new pods need addresses now. It is not part of
// the start: plugins take their time.
func (s *Server) releaseLost(ctx context.Context) {
	var g errgroup.Group
	g.SetLimit(actionsAtOnce)
	for _, r := range s.store.Sandboxes.List() {
		if r.Boot == s.opts.Boot || r.Broken != "" || r.Released || s.live.sandbox(r.ID) == nil {
			continue
		}
		g.Go(func() error {
			if err := s.releaseOne(ctx, r.ID); err != nil {
				s.log.Warn("address of the last boot is not released yet", "sandbox", r.ID, "error", err)
			}
			return nil
		})
	}
	_ = g.Wait() // the functions return no errors
}

func (s *Server) releaseOne(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, actionBudget)
	defer cancel()
	unlock, err := s.locks.Exclusive(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	return s.stopSandbox(ctx, id)
}

// find asks the drivers for what there is. What one of them cannot tell is left out.
func (s *Server) find(ctx context.Context) (found map[string]traces, complete bool) {
	found, complete = map[string]traces{}, true
	for name, d := range s.opts.Drivers {
		var t traces
		var err error
		if t.sandboxes, err = d.List(ctx); err == nil {
			t.containers, err = d.Containers(ctx)
		}
		if err != nil {
			s.log.Error("sandboxes cannot be listed", "handler", name, "error", err)
			complete = false
			continue
		}
		found[name] = t
	}
	return found, complete
}

// reconcileOnce returns the number of actions it took, and whether there may be more to
// do at once: where something failed, or an undo took a record away that may not have
// known all that was made.
func (s *Server) reconcileOnce(ctx context.Context) (n int, again bool) {
	found, complete := s.find(ctx)
	actions := reconcile(s.facts(), found)
	var unsettled atomic.Bool
	for _, k := range []func(action) bool{
		func(a action) bool { return a.kind == kindSandbox && a.verb != sweep },
		func(a action) bool { return a.kind == kindContainer && a.verb != sweep },
		func(a action) bool { return a.verb == sweep },
	} {
		var g errgroup.Group
		g.SetLimit(actionsAtOnce)
		for _, a := range actions {
			if k(a) {
				g.Go(func() error {
					if !s.act(ctx, a) || a.verb == undo {
						unsettled.Store(true)
					}
					return nil
				})
			}
		}
		_ = g.Wait() // the functions return no errors
	}
	return len(actions), unsettled.Load() || !complete
}

func (s *Server) facts() []fact {
	var all []fact
	for _, r := range s.store.Sandboxes.List() {
		all = append(all, fact{
			kind: kindSandbox, id: r.ID, handler: r.Handler, pending: r.Pending(), broken: r.Broken != "",
			live: s.live.sandbox(r.ID) != nil, busy: s.locks.Held(r.ID),
		})
	}
	for _, r := range s.store.Containers.List() {
		all = append(all, fact{
			kind: kindContainer, id: r.ID, pending: r.Pending(), broken: r.Broken != "",
			live: s.live.container(r.ID) != nil, busy: s.locks.Held(r.ID),
		})
	}
	return all
}

// act tells whether it succeeded.
func (s *Server) act(ctx context.Context, a action) bool {
	ctx, cancel := context.WithTimeout(ctx, actionBudget)
	defer cancel()
	err := s.doAction(ctx, a)
	if err != nil {
		s.log.Error("reconciliation failed", "action", a.verb, string(a.kind), a.id, "error", err)
		return false
	}
	if a.verb != adopt {
		s.log.Info("reconciled", "action", a.verb, string(a.kind), a.id)
	}
	return true
}

func (s *Server) doAction(ctx context.Context, a action) error {
	if a.verb == sweep && a.kind == kindContainer { // locked in the order of a creation
		unlock, err := s.locks.Shared(ctx, a.sandbox)
		if err != nil {
			return err
		}
		defer unlock()
	}
	unlock, err := s.locks.Exclusive(ctx, a.id)
	if err != nil {
		return err
	}
	defer unlock()
	switch {
	case a.verb == sweep && a.kind == kindContainer:
		if _, err := s.store.Containers.Get(a.id); err == nil {
			return nil
		}
		return s.opts.Drivers[a.handler].SweepContainer(ctx, a.sandbox, a.id)
	case a.verb == sweep:
		if _, err := s.store.Sandboxes.Get(a.id); err == nil {
			return nil
		}
		return s.opts.Drivers[a.handler].Sweep(ctx, a.id)
	case a.kind == kindSandbox:
		r, err := s.store.Sandboxes.Get(a.id)
		if err != nil {
			return nil // removed meanwhile
		}
		if r.Pending() {
			return s.undoSandbox(ctx, r)
		}
		if s.live.sandbox(a.id) != nil {
			return nil // what made it has ended meanwhile
		}
		return s.adoptSandbox(ctx, r)
	default:
		r, err := s.store.Containers.Get(a.id)
		if err != nil {
			return nil
		}
		if r.Pending() {
			return s.undoContainer(ctx, r)
		}
		if s.live.container(a.id) != nil {
			return nil
		}
		return s.adoptContainer(ctx, r)
	}
}

// undoSandbox takes an interrupted RunPodSandbox back. If that fails, the sandbox is
// shown as one that is not ready, so that somebody removes it.
func (s *Server) undoSandbox(ctx context.Context, r *store.Sandbox) error {
	err := s.sweepSandbox(ctx, r)
	if err == nil {
		return s.store.Sandboxes.Delete(r.ID)
	}
	_, err2 := s.store.Sandboxes.Update(r.ID, func(r *store.Sandbox) {
		r.ReadyAt, r.StoppedAt = r.CreatedAt, time.Now()
	})
	return errors.Join(fmt.Errorf("undo creation: %w", err), err2)
}
