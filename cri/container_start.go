package cri

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/cri/nri"
	"github.com/cricket-cri/cricket/cri/ops"
	"github.com/cricket-cri/cricket/cri/store"
	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/flow"
)

// startFailed is the exit code of a container whose process could not be started, as
// operators know it from containerd.
const startFailed = 128

// startAttempts is how often a start is tried that finds no monitor.
const startAttempts = 3

// StartContainer runs the process of a created container.
func (s *Server) StartContainer(ctx context.Context, req *v1.StartContainerRequest) (*v1.StartContainerResponse, error) {
	rec, err := s.store.Containers.Find(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	op := ops.Spec{Key: ops.Key{Kind: "start container", Name: rec.ID}, Budget: createBudget, Park: true}
	_, err = ops.Do(ctx, s.ops, op, func(ctx context.Context) (struct{}, error) {
		unlockPod, err := s.locks.Shared(ctx, rec.SandboxID)
		if err != nil {
			return struct{}{}, err
		}
		defer unlockPod()
		unlock, err := s.locks.Exclusive(ctx, rec.ID)
		if err != nil {
			return struct{}{}, err
		}
		defer unlock()
		return struct{}{}, s.startContainer(ctx, rec.ID)
	})
	if err != nil {
		return nil, fmt.Errorf("start container: %w", err)
	}
	return &v1.StartContainerResponse{}, nil
}

// startContainer does the work; the caller holds the locks of sandbox and container.
func (s *Server) startContainer(ctx context.Context, id string) error {
	rec, err := s.store.Containers.Get(id)
	if err != nil {
		return err
	}
	if err := allow("start", rec.State()); err != nil {
		return err
	}
	if _, _, err := s.readySandbox(rec.SandboxID); err != nil {
		return err
	}
	lc := s.live.container(id)
	if lc == nil {
		return fmt.Errorf("nothing is left of the container: %w", errdefs.ErrFailedPrecondition)
	}
	return flow.Run(ctx, "start container",
		flow.Step{Name: "ask plugins", Do: func(ctx context.Context) error {
			if s.plugins == nil {
				return nil
			}
			err := s.plugins.StartContainer(ctx, s.podOf(rec), nri.Container(rec))
			if err != nil {
				s.noteStartFailure(rec.ID, lc, err)
			}
			return err
		}},
		flow.Step{Name: "start process", Do: func(ctx context.Context) error { return s.startProcess(ctx, rec, lc) }})
}

// startProcess starts it and records that; if it cannot be started, the container has
// exited, and the record says why.
func (s *Server) startProcess(ctx context.Context, rec *store.Container, lc *liveContainer) error {
	state, failure, unknown := tryStart(ctx, lc)
	switch {
	case failure == nil && unknown != nil:
		state = runtime.State{Phase: runtime.Running} // it was started, so much is known
	case failure != nil && (unknown != nil || state.Phase == runtime.Created) && errdefs.IsUnavailable(failure):
		return failure // nothing happened: it can be started again
	case failure != nil && (unknown != nil || state.StartedAt.IsZero()):
		s.noteStartFailure(rec.ID, lc, failure)
		return failure
	}
	if state.StartedAt.IsZero() {
		state.StartedAt = time.Now()
	}
	rec, err := s.store.Containers.Update(rec.ID, func(r *store.Container) {
		r.StartedAt, r.Pid = state.StartedAt, state.Pid
	})
	if rec == nil {
		return err
	}
	if err != nil {
		s.log.Warn("start of container is not on disk", "container", rec.ID, "error", err)
	}
	s.emitContainer(v1.ContainerEventType_CONTAINER_STARTED_EVENT, rec)
	s.tell(func(p *nri.Plugins) { p.Started(ctx, s.podOf(rec), nri.Container(rec)) })
	s.awaitExit(rec.ID, lc)
	return nil
}

// tryStart starts a process and asks what came of it, in any case: the budget may be what
// ended the start. Where nothing did because the monitor died, and has been started anew
// since, it is done again: the kubelet would not, but make another container and count a
// restart.
//
// What the monitor had started before it died may have ended since: that is no start that
// failed, but an exit, of which more is known than that.
func tryStart(ctx context.Context, lc *liveContainer) (state runtime.State, failure, unknown error) {
	interrupted := false
	for range startAttempts {
		failure = lc.Start(ctx)
		interrupted = interrupted || errdefs.IsUnavailable(failure)
		ask, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		state, unknown = lc.State(ask)
		cancel()
		if !errdefs.IsUnavailable(failure) || unknown != nil || state.Phase != runtime.Created || ctx.Err() != nil {
			break
		}
	}
	if interrupted && failure != nil && unknown == nil && hasEnded(ctx, lc, state, failure) {
		return runtime.State{Phase: runtime.Running}, nil, nil
	}
	return state, failure, unknown
}

// hasEnded tells whether a container whose start was interrupted has run and ended. The
// monitor that has come since may be about to find that out, if the process cannot be
// started any more.
func hasEnded(ctx context.Context, lc *liveContainer, state runtime.State, failure error) bool {
	if state.Phase != runtime.Created || errdefs.IsUnavailable(failure) {
		return state.Phase == runtime.Exited
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	_, err := lc.Wait(ctx)
	return err == nil
}

func (s *Server) noteStartFailure(id string, lc *liveContainer, failure error) {
	s.recordExit(id, lc, func(r *store.Container) {
		r.FinishedAt, r.ExitCode = time.Now(), startFailed
		r.Reason, r.Message = "StartError", failure.Error()
	})
}
