package cri

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/cri/ops"
	"github.com/cricket-cri/cricket/cri/store"
)

// killBudget is how long a container may take to be gone after SIGKILL.
const killBudget = 2 * time.Minute

// StopContainer sends the stop signal, and SIGKILL after the grace period. It is
// idempotent: a container that does not run or does not exist is stopped. Several
// callers may stop one container at once: the signal is sent once, and the shortest
// grace period counts.
func (s *Server) StopContainer(ctx context.Context, req *v1.StopContainerRequest) (*v1.StopContainerResponse, error) {
	rec, err := s.store.Containers.Find(req.GetContainerId())
	if errdefs.IsNotFound(err) {
		return &v1.StopContainerResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	grace := time.Duration(max(0, min(req.GetTimeout(), maxSeconds))) * time.Second
	op := ops.Spec{
		Key:    ops.Key{Kind: "stop container", Name: fmt.Sprintf("%s within %s", rec.ID, grace)},
		Budget: grace + killBudget,
	}
	_, err = ops.Do(ctx, s.ops, op, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, s.stopContainer(ctx, rec.ID, grace)
	})
	if err != nil {
		return nil, fmt.Errorf("stop container: %w", err)
	}
	return &v1.StopContainerResponse{}, nil
}

// maxSeconds is what longer times that a request gives in seconds are taken for: a year, so
// that sums do not overflow.
const maxSeconds = 365 * 24 * 3600

// stopContainer waits for a start that is under way, so that what it sees is settled;
// it holds no lock while it waits for the exit, and so cannot keep a removal from
// killing.
func (s *Server) stopContainer(ctx context.Context, id string, grace time.Duration) error {
	unlock, err := s.locks.Exclusive(ctx, id)
	if err != nil {
		return err
	}
	rec, err := s.settled(ctx, id)
	unlock()
	if err == nil && rec.Broken != "" {
		return s.endUnknown(ctx, id)
	}
	if errdefs.IsNotFound(err) || err == nil && rec.State() != v1.ContainerState_CONTAINER_RUNNING {
		return nil
	}
	if err != nil {
		return err
	}
	return s.endTold(ctx, rec, grace)
}

// endTold is endContainer that returns when plugins know of the end too.
func (s *Server) endTold(ctx context.Context, rec *store.Container, grace time.Duration) error {
	lc := s.live.container(rec.ID)
	err := s.endContainer(ctx, rec, grace)
	if err == nil && lc != nil {
		lc.awaitTold()
	}
	return err
}

// settled finds the record of a container. One that is recorded as running, and that
// could not be adopted when the daemon started, is adopted now: what cannot be talked to
// must not be called stopped. The caller holds the container's lock.
func (s *Server) settled(ctx context.Context, id string) (*store.Container, error) {
	rec, err := s.store.Containers.Get(id)
	if err != nil || rec.State() != v1.ContainerState_CONTAINER_RUNNING || s.live.container(id) != nil {
		return rec, err
	}
	if s.live.sandbox(rec.SandboxID) == nil {
		return nil, fmt.Errorf("its sandbox cannot be talked to: %w", errdefs.ErrUnavailable)
	}
	if err := s.adoptContainer(ctx, rec); err != nil {
		return nil, err
	}
	return s.store.Containers.Get(id)
}

// endUnknown kills a container of which nothing but the id is known: the kubelet stops
// it before it starts another in its place.
func (s *Server) endUnknown(ctx context.Context, id string) error {
	c, err := s.behind(ctx, id)
	if err != nil || c == nil {
		return err
	}
	if err := c.Signal(ctx, unix.SIGKILL); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("kill: %w", err)
	}
	if _, err := c.Wait(ctx); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("wait for its end: %w", err)
	}
	return nil
}

// endContainer ends a running container and returns when its exit is recorded.
func (s *Server) endContainer(ctx context.Context, rec *store.Container, grace time.Duration) error {
	lc := s.live.container(rec.ID)
	if lc == nil {
		return nil // removed meanwhile
	}
	if grace > 0 && rec.StopSignal != unix.SIGKILL {
		err := lc.signalOnce(ctx, rec.StopSignal)
		if errdefs.IsUnavailable(err) {
			return fmt.Errorf("send stop signal: %w", err) // SIGKILL would take the grace away
		}
		if err != nil {
			s.log.Warn("stop signal is not delivered", "container", rec.ID, "error", err)
		} else if gone, err := waitFor(ctx, lc.exited, grace); gone || err != nil {
			return err
		}
	}
	err := lc.Signal(ctx, unix.SIGKILL)
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("kill: %w", err)
	}
	if gone, err := waitFor(ctx, lc.exited, killBudget); err != nil {
		return err
	} else if !gone {
		return fmt.Errorf("kill: still there %s after SIGKILL: %w", killBudget, errdefs.ErrUnavailable)
	}
	return nil
}

// waitFor waits until done is closed or the time is over.
func waitFor(ctx context.Context, done <-chan struct{}, limit time.Duration) (bool, error) {
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-done:
		return true, nil
	case <-t.C:
		return false, nil
	case <-ctx.Done():
		return false, ctx.Err()
	}
}
