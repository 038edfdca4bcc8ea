package monitor

import (
	"log/slog"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
)

// adoptTime is how long a new monitor waits for a Keeper, which may know how a container
// ended while there was no monitor, before it calls the exit unknown.
const adoptTime = 5 * time.Second

// adoptAll takes over what earlier monitors recorded.
func (s *Server) adoptAll() {
	if err := s.shelf.tidy(); err != nil {
		s.log.Warn("adopt", slog.Any("error", err))
	}
	records, bad := load[record](s.shelf, recordSuffix)
	holds, badHolds := load[hold](s.shelf, holdSuffix)
	for _, err := range append(bad, badHolds...) {
		s.log.Warn("adopt", slog.Any("error", err))
	}
	for _, r := range records {
		if r.Boot != s.boot {
			s.discard(r.Request.ID, recordSuffix) // it ended with its kernel
			continue
		}
		if r.Init.Pid == 0 {
			if err := s.undoCreation(r); err != nil { // the next monitor tries again
				s.log.Warn("adopt", slog.String("container", r.Request.ID), slog.Any("error", err))
			}
			continue
		}
		s.adopt(s.catchUp(r))
	}
	s.adoptExecs()
	s.adoptChildren()
	s.adoptMirrors()
	for _, h := range holds {
		s.adoptHold(h)
	}
	if len(s.containers) > 0 {
		s.log.Info("adopted containers", slog.Int("count", len(s.containers)))
	}
}

// catchUp brings a record up to a start that an earlier monitor did not record.
func (s *Server) catchUp(r record) record {
	if r.Phase != runtime.Created {
		return r
	}
	started, err := s.startedUnseen(r)
	if err != nil {
		s.log.Warn("ask for state", slog.String("container", r.Request.ID), slog.Any("error", err))
	}
	if !started {
		return r
	}
	r.Phase, r.StartedAt = runtime.Running, time.Now()
	if err := s.shelf.save(r.Request.ID, recordSuffix, r); err != nil {
		s.log.Warn("save start", slog.String("container", r.Request.ID), slog.Any("error", err))
	}
	return r
}

func (s *Server) adoptHold(h hold) {
	if h.Init.Pid == 0 {
		endStrays(podInitArg, h.ID, 0) // nobody was told of it
	}
	pidfd, err := openProcess(h.Init.Pid, h.Init.StartTime)
	if h.Boot != s.boot || err != nil {
		s.discard(h.ID, holdSuffix)
		return
	}
	n := &held{hold: h, pidfd: pidfd, settled: make(chan struct{})}
	close(n.settled)
	if st, err := readProc(h.Init.Pid); err == nil && st.parent == os.Getpid() {
		n.ended = s.reaper.claim(h.Init.Pid, time.Time{})
	}
	s.holds[h.ID] = n
}

// discard removes the record of what is gone. The next monitor tries again.
func (s *Server) discard(id, suffix string) {
	if err := s.shelf.remove(id, suffix); err != nil {
		s.log.Warn("remove record", slog.String("record", id+suffix), slog.Any("error", err))
	}
}

func (s *Server) adopt(r record) {
	c := s.newContainer(r)
	c.told = make(chan runtime.Exit, 1)
	s.containers[r.Request.ID] = c
	if r.Phase == runtime.Exited {
		close(c.exited)
		c.tee.close(nil)
		c.closeLog()
		return
	}
	if item, ok := s.handoff[r.Request.ID]; ok {
		if err := c.unpack(item); err != nil {
			s.log.Warn("adopt output", slog.String("container", r.Request.ID), slog.Any("error", err))
		}
	} else if !r.Request.Terminal {
		if err := c.openOutputs(); err != nil {
			s.log.Warn("adopt output", slog.String("container", r.Request.ID), slog.Any("error", err))
		}
		c.reopenStdin()
	}
	pidfd, err := openProcess(r.Init.Pid, r.Init.StartTime)
	if err != nil {
		go c.settleLost(s.restored)
		return
	}
	c.pidfd = pidfd
	if r.Frozen {
		c.dropCheckpoint()
	}
	if st, err := readProc(r.Init.Pid); err == nil && st.parent == os.Getpid() {
		s.watch(c, s.reaper.claim(r.Init.Pid, time.Time{}))
		return
	}
	s.watch(c, nil)
}

// reopenStdin opens the writing end by name; it fails if nobody reads any more.
func (c *container) reopenStdin() {
	if !c.rec.Request.Stdin || c.rec.InputEnded {
		return
	}
	f, err := openFIFO(c.rec.Request.Bundle, stdinFIFO, unix.O_WRONLY)
	if err != nil {
		return
	}
	c.mu.Lock()
	c.stdin = f
	c.mu.Unlock()
}

// settleLost waits for the Keeper, which may know how the container ended. When that has
// handed over all it had there is nothing more to wait for: monitors that die one after
// the other must not put the end of a container off for as long as they do.
func (c *container) settleLost(restored <-chan struct{}) {
	timer := time.NewTimer(adoptTime)
	defer timer.Stop()
	select {
	case exit := <-c.told:
		c.settle(exit)
		return
	case <-restored:
	case <-timer.C:
	}
	exit := runtime.Exit{Code: -1, Unknown: true, At: time.Now()}
	select {
	case exit = <-c.told:
	default:
	}
	c.settle(exit)
}
