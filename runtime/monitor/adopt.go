package monitor

import (
	"log/slog"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
)

// adoptTime is how long a new monitor waits for a Keeper, which may know how a container
// ended while there was no monitor, before it calls the exit unknown.
const adoptTime = 5 * time.Second

// root is a process that an earlier monitor recorded and that has not been reaped.
type root struct {
	pidfd *os.File
	ended <-chan status // nil if an earlier monitor fathered it
}

// adoptAll takes over what earlier monitors recorded, and lets the reaper run.
func (s *Server) adoptAll() {
	if err := s.shelf.tidy(); err != nil {
		s.log.Warn("adopt", slog.Any("error", err))
	}
	records, bad := load[record](s.shelf, recordSuffix)
	holds, badHolds := load[hold](s.shelf, holdSuffix)
	children, badChildren := load[childRecord](s.shelf, childSuffix)
	for _, err := range slices.Concat(bad, badHolds, badChildren) {
		s.log.Warn("adopt", slog.Any("error", err))
	}
	// A child that ended during a re-exec is a zombie now, and only that knows its exit code.
	roots := s.findRoots(records, holds, children)
	go s.reaper.run()
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
		s.adopt(s.catchUp(r), roots[r.Init])
	}
	s.adoptExecs()
	s.adoptChildren(children, roots)
	s.adoptMirrors()
	for _, h := range holds {
		s.adoptHold(h, roots[h.Init])
	}
	if len(s.containers) > 0 {
		s.log.Info("adopted containers", slog.Int("count", len(s.containers)))
	}
}

// findRoots opens what is left of the recorded processes, and claims those that are this
// process's children.
func (s *Server) findRoots(records []record, holds []hold, children []childRecord) map[Created]root {
	var lives []life
	for _, r := range records {
		lives = append(lives, r.life)
	}
	for _, h := range holds {
		lives = append(lives, life{Boot: h.Boot, Init: h.Init})
	}
	for _, r := range children {
		lives = append(lives, r.life)
	}
	roots := make(map[Created]root)
	for _, l := range lives {
		if l.Boot != s.boot || l.Init.Pid == 0 || l.Phase == runtime.Exited {
			continue
		}
		pidfd, err := openProcess(l.Init.Pid, l.Init.StartTime)
		if err != nil {
			continue // it is gone
		}
		found := root{pidfd: pidfd}
		if st, err := readProc(l.Init.Pid); err == nil && st.parent == os.Getpid() {
			found.ended = s.reaper.claim(l.Init.Pid, time.Time{})
		}
		roots[l.Init] = found
	}
	return roots
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

func (s *Server) adoptHold(h hold, found root) {
	if h.Init.Pid == 0 {
		endStrays(podInitArg, h.ID, 0) // nobody was told of it
	}
	if found.pidfd == nil {
		s.discard(h.ID, holdSuffix)
		return
	}
	n := &held{hold: h, pidfd: found.pidfd, ended: found.ended, settled: make(chan struct{})}
	close(n.settled)
	s.holds[h.ID] = n
}

// discard removes the record of what is gone. The next monitor tries again.
func (s *Server) discard(id, suffix string) {
	if err := s.shelf.remove(id, suffix); err != nil {
		s.log.Warn("remove record", slog.String("record", id+suffix), slog.Any("error", err))
	}
}

func (s *Server) adopt(r record, found root) {
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
	if found.pidfd == nil {
		go c.settleLost(s.restored)
		return
	}
	c.pidfd = found.pidfd
	if r.Frozen {
		c.dropCheckpoint()
	}
	s.watch(c, found.ended)
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
