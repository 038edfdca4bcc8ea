package monitor

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// execRecord is what a later monitor needs to go on with an exec: to end it in time and
// to read what it writes.
type execRecord struct {
	Key       string `json:"key"`
	Container string `json:"container"`
	// PidFile is written by the OCI runtime. It tells what was begun by a monitor that
	// was killed before it knew Process.
	PidFile string  `json:"pidFile"`
	Process Created `json:"process"`
	Session int     `json:"session"` // that it began in, 0 if unknown
	// Deadline is in nanoseconds of CLOCK_MONOTONIC, which no setting of the clock
	// moves; 0 is none.
	Deadline int64 `json:"deadline,omitempty"`
	// Pipes are the inodes of the pipes that the process was given for its output.
	Pipes []uint64 `json:"pipes,omitempty"`
}

func monotonic() int64 {
	var ts unix.Timespec
	// It fails on clocks that do not exist only.
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return ts.Nano()
}

// note writes the record: before the process is started, and again when it is known.
func (e *execution) note() error {
	if e.req.Timeout > 0 {
		e.rec.Deadline = monotonic() + int64(e.req.Timeout)
	}
	return e.c.srv.shelf.save(e.rec.Key, execSuffix, e.rec)
}

// outlast reads on for processes that the exec left behind and forgets the exec when
// they have closed its output. They could not write any more otherwise: at first their
// pipe is full, and they block.
func (s *Server) outlast(c *container, key string, pumps []*pump) {
	if c.readOn(pumps) {
		for _, p := range pumps {
			<-p.done
		}
		c.readEnough(pumps)
	}
	s.discard(key, execSuffix)
}

// readOn makes the pumps end with the container, at the latest. False if it is gone:
// then they have ended.
func (c *container) readOn(pumps []*pump) bool {
	c.mu.Lock()
	deleted := c.deleted
	if !deleted {
		c.left = append(c.left, pumps...)
	}
	c.mu.Unlock()
	if deleted {
		for _, p := range pumps {
			p.stop()
		}
	}
	return !deleted
}

func (c *container) readEnough(pumps []*pump) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.left = slices.DeleteFunc(c.left, func(p *pump) bool { return slices.Contains(pumps, p) })
}

// adoptExecs goes on with what earlier monitors had begun to execute.
func (s *Server) adoptExecs() {
	records, bad := load[execRecord](s.shelf, execSuffix)
	for _, err := range bad {
		s.log.Warn("adopt", slog.Any("error", err))
	}
	for _, r := range records {
		c, ok := s.containers[r.Container]
		if !ok { // it has taken its processes along
			s.discard(r.Key, execSuffix)
			continue
		}
		go s.adoptExec(c, r)
	}
}

// adoptExec returns when nothing is left of the exec that there is something to do for.
func (s *Server) adoptExec(c *container, r execRecord) {
	if r.Process.Pid == 0 {
		if err := s.findExec(c, &r); err != nil {
			s.log.Warn("adopt exec", slog.String("container", r.Container), slog.Any("error", err))
		}
	}
	pumps := s.reopenPipes(c, r)
	if pidfd, err := openProcess(r.Process.Pid, r.Process.StartTime); err == nil {
		s.endInTime(c, r, pidfd)
		pidfd.Close()
	}
	s.outlast(c, r.Key, pumps)
}

// findExec looks for the process of a command that an earlier monitor had not seen the
// end of. The record stays as it is if there is none.
func (s *Server) findExec(c *container, r *execRecord) error {
	endStrays("exec", r.Container, strayTime)
	defer os.Remove(r.PidFile)
	pid, err := readPidFile(r.PidFile)
	if err != nil {
		return nil // nothing was started
	}
	st, err := readProc(pid)
	if err != nil || c.rec.Cgroup.tree() != "" && !slices.Contains(c.rec.Cgroup.pids(), pid) {
		return nil // it has ended, and the pid may be somebody else's by now
	}
	r.Process, r.Session = Created{Pid: pid, StartTime: st.start}, st.session
	return s.shelf.save(r.Key, execSuffix, r)
}

// endInTime waits for the end of a process, which it brings about when its time is over.
func (s *Server) endInTime(c *container, r execRecord, pidfd *os.File) {
	if r.Deadline > 0 {
		killed := make(chan struct{})
		late := time.AfterFunc(time.Duration(r.Deadline-monotonic()), func() {
			defer close(killed)
			if err := killTree(r.Process, r.Session, c.rec.Cgroup); err != nil {
				s.log.Warn("kill exec that took too long", slog.String("container", r.Container), slog.Any("error", err))
			}
		})
		defer func() {
			if !late.Stop() {
				<-killed // the children too, which end later
			}
		}()
	}
	if err := waitProcess(pidfd); err != nil {
		s.log.Warn("wait for exec", slog.String("container", r.Container), slog.Any("error", err))
	}
}

// reopenPipes reads on, for nobody, from those pipes that somebody still writes to.
func (s *Server) reopenPipes(c *container, r execRecord) []*pump {
	var pumps []*pump
	for _, inode := range r.Pipes {
		f := findPipe(c.rec.Cgroup, inode)
		if f == nil {
			continue
		}
		p, err := startPump(f, &s.buffers, func([]byte, time.Time) {}, func(time.Time) {})
		if err != nil {
			s.log.Warn("read output of exec", slog.String("container", r.Container), slog.Any("error", err))
			f.Close()
			continue
		}
		pumps = append(pumps, p)
	}
	return pumps
}

// findPipe opens the reading end of a pipe without a name, by a descriptor that a
// process of the cgroup has of it.
func findPipe(cg cgroup, inode uint64) *os.File {
	want := fmt.Sprintf("pipe:[%d]", inode)
	for _, pid := range candidates(cg) {
		dir := filepath.Join("/proc", strconv.Itoa(pid), "fd")
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue // it has ended
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			if target, err := os.Readlink(path); err != nil || target != want {
				continue
			}
			if f := openPipe(path, inode); f != nil {
				return f
			}
		}
	}
	return nil
}

// openPipe opens what it finds at path for reading, if it is the pipe.
func openPipe(path string, inode uint64) *os.File {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFIFO || st.Ino != inode {
		unix.Close(fd) // the descriptor got another file meanwhile
		return nil
	}
	return os.NewFile(uintptr(fd), "pipe")
}
