package cri

import (
	"context"
	"time"

	"github.com/containerd/errdefs"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/cri/store"
	"github.com/cricket-cri/cricket/runtime"
)

// Pauses between attempts to wait for a container whose monitor does not answer.
const (
	firstPause = 50 * time.Millisecond
	lastPause  = 5 * time.Second
)

// awaitExit starts the goroutine that records the exit of a running container.
func (s *Server) awaitExit(id string, lc *liveContainer) {
	s.work.start(func(ctx context.Context) {
		pause := firstPause
		for {
			exit, err := lc.Wait(ctx)
			switch {
			case err == nil:
				s.noteExit(id, lc, exit)
				return
			case ctx.Err() != nil:
				return // the next daemon waits
			case errdefs.IsNotFound(err):
				s.noteExit(id, lc, runtime.Exit{Code: -1, At: time.Now(), Unknown: true})
				return
			}
			s.log.Warn("wait for container is interrupted", "container", id, "error", err)
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause):
			}
			pause = min(2*pause, lastPause)
		}
	})
}

func (s *Server) noteExit(id string, lc *liveContainer, exit runtime.Exit) {
	s.recordExit(id, lc, func(r *store.Container) { exitFacts(r, exit) })
}

// exitFacts puts an exit into a record.
func exitFacts(r *store.Container, exit runtime.Exit) {
	r.FinishedAt, r.ExitCode, r.Pid = exit.At, exit.Code, 0
	if exit.At.IsZero() {
		r.FinishedAt = time.Now()
	}
	switch {
	case exit.Unknown:
		r.ExitCode, r.Reason = -1, "Unknown"
		r.Message = "the process is gone, and nothing on this machine knows its exit code"
	case exit.OOMKilled:
		r.Reason = "OOMKilled"
	case exit.Code == 0:
		r.Reason = "Completed"
	default:
		r.Reason = "Error"
	}
}

// recordExit records the end of a container, says so, and lets those go on who wait for
// it, before plugins are told: they may have to wait for who waits (tell). The exit counts
// even if the disk is full: memory has it, and the monitor.
func (s *Server) recordExit(id string, lc *liveContainer, facts func(*store.Container)) {
	lc.telling.Lock()
	defer lc.telling.Unlock()
	rec, err := s.store.Containers.Update(id, facts)
	if err != nil && !errdefs.IsNotFound(err) {
		s.log.Warn("exit of container is not on disk", "container", id, "error", err)
	}
	if rec != nil {
		s.emitContainer(v1.ContainerEventType_CONTAINER_STOPPED_EVENT, rec)
	}
	close(lc.exited)
	s.tellStopped(s.work.ctx, rec)
}
