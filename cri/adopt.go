package cri

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/cri/store"
	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/sandbox"
)

// adoptSandbox finds a recorded sandbox on the machine. One that is gone is recorded as
// stopped; what its driver returned beside the error still cleans up after it.
func (s *Server) adoptSandbox(ctx context.Context, r *store.Sandbox) error {
	d := s.opts.Drivers[r.Handler]
	if d == nil {
		s.noteStopped(r.ID, false)
		return fmt.Errorf("runtime handler %q is not configured any more: %w", r.Handler, errdefs.ErrFailedPrecondition)
	}
	sb, err := d.Attach(ctx, r.Driver)
	gone := errors.Is(err, sandbox.ErrGone)
	if err != nil && !gone {
		return fmt.Errorf("attach to sandbox: %w", err)
	}
	if sb != nil {
		s.live.setSandbox(r.ID, sb)
	}
	switch {
	case gone || !sb.Status().Ready:
		s.noteStopped(r.ID, false)
	case r.Ready():
		s.watchSandbox(r.ID, sb)
	}
	return nil
}

// undoContainer takes an interrupted CreateContainer back.
func (s *Server) undoContainer(ctx context.Context, r *store.Container) error {
	var err error
	if sb := s.live.sandbox(r.SandboxID); sb != nil {
		var c runtime.Container
		if c, err = sb.Container(ctx, r.ID); err == nil {
			err = c.Remove(ctx)
		}
	}
	// Whether it can be removed just now or not: the client may try again before.
	logErr := dropLog(r.LogPath)
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("undo creation: %w", err)
	}
	if logErr != nil {
		return logErr
	}
	return s.store.Containers.Delete(r.ID)
}

// adoptContainer finds a recorded container on the machine and brings the record up to
// what happened while nobody looked.
func (s *Server) adoptContainer(ctx context.Context, r *store.Container) error {
	sb := s.live.sandbox(r.SandboxID)
	if sb == nil {
		if _, err := s.store.Sandboxes.Get(r.SandboxID); err == nil && r.Boot == s.opts.Boot {
			return nil // its sandbox could not be attached to yet
		}
		return s.noteLost(r)
	}
	c, err := sb.Container(ctx, r.ID)
	if errdefs.IsNotFound(err) {
		return s.noteLost(r)
	}
	if err != nil {
		return fmt.Errorf("adopt container: %w", err)
	}
	if r.State() == v1.ContainerState_CONTAINER_EXITED {
		close(s.live.setContainer(r.ID, c).exited)
		return nil
	}
	state, err := c.State(ctx)
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("ask for state of container: %w", err)
	}
	return s.noteState(r, c, state, err != nil)
}

// noteState brings the record of a container up to the state that its hull reports.
func (s *Server) noteState(r *store.Container, c runtime.Container, state runtime.State, lost bool) error {
	lc := s.live.setContainer(r.ID, c)
	if lost {
		s.noteExit(r.ID, lc, runtime.Exit{Code: -1, Unknown: true, At: time.Now()})
		return nil
	}
	if r.StartedAt.IsZero() && state.Phase != runtime.Created {
		// The daemon ended between the start and its record.
		var err error
		r, err = s.store.Containers.Update(r.ID, func(r *store.Container) {
			if r.StartedAt, r.Pid = state.StartedAt, state.Pid; r.StartedAt.IsZero() {
				r.StartedAt = r.CreatedAt
			}
		})
		if r == nil {
			return err
		}
		s.emitContainer(v1.ContainerEventType_CONTAINER_STARTED_EVENT, r)
	}
	switch {
	case state.Phase == runtime.Exited:
		s.noteExit(r.ID, lc, state.Exit)
	case r.State() == v1.ContainerState_CONTAINER_RUNNING:
		s.awaitExit(r.ID, lc)
	}
	return nil
}

// noteLost records the end of a container of which nothing is left.
func (s *Server) noteLost(r *store.Container) error {
	if r.State() == v1.ContainerState_CONTAINER_EXITED {
		return nil
	}
	exit := runtime.Exit{Code: -1, Unknown: true, At: time.Now()}
	r, err := s.store.Containers.Update(r.ID, func(r *store.Container) { exitFacts(r, exit) })
	if r != nil {
		s.emitContainer(v1.ContainerEventType_CONTAINER_STOPPED_EVENT, r)
		s.tellStopped(s.work.ctx, r)
	}
	return err
}
