package monitor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/flow"
)

// maxSpawnFDs is how many descriptors a child can be given; the kernel passes on 253 at
// a time.
const maxSpawnFDs = 64

// spawnBody is the body of a call: after it come the descriptors, if there are any,
// with one byte.
type spawnBody struct {
	SpawnRequest
	Files int `json:"files,omitempty"`
}

func checkSpawn(r spawnBody) error {
	switch {
	case !validID(r.ID):
		return fmt.Errorf("check id: %w", errdefs.ErrInvalidArgument)
	case len(r.Args) == 0 || !filepath.IsAbs(r.Args[0]):
		return fmt.Errorf("check arguments: no absolute path of a program: %w", errdefs.ErrInvalidArgument)
	case r.LogPath != "" && !filepath.IsAbs(r.LogPath):
		return fmt.Errorf("check log: not an absolute path: %w", errdefs.ErrInvalidArgument)
	case r.Dir != "" && !filepath.IsAbs(r.Dir):
		return fmt.Errorf("check directory: not an absolute path: %w", errdefs.ErrInvalidArgument)
	case r.Files < 0 || r.Files > maxSpawnFDs:
		return fmt.Errorf("check descriptors: %d of at most %d: %w", r.Files, maxSpawnFDs, errdefs.ErrInvalidArgument)
	}
	return nil
}

// spawnFrom receives the descriptors and starts the program.
func (s *Server) spawnFrom(ctx context.Context, conn net.Conn, r spawnBody) (Created, error) {
	var fds []int
	if r.Files > 0 { // whatever else is wrong: what is not received breaks the answer
		u, ok := conn.(*net.UnixConn)
		if !ok {
			return Created{}, fmt.Errorf("receive descriptors over %T: %w", conn, errdefs.ErrNotImplemented)
		}
		conn.SetReadDeadline(time.Now().Add(headerTime))
		var err error
		if fds, _, err = receiveFDs(u, make([]byte, 1), maxSpawnFDs); err != nil {
			return Created{}, fmt.Errorf("receive descriptors: %w: %w", errdefs.ErrInvalidArgument, err)
		}
		defer closeFDs(fds)
	}
	if err := checkSpawn(r); err != nil {
		return Created{}, err
	}
	if len(fds) != r.Files {
		return Created{}, fmt.Errorf("receive descriptors: %d instead of %d: %w", len(fds), r.Files, errdefs.ErrInvalidArgument)
	}
	return s.spawn(ctx, r.SpawnRequest, fds)
}

func (s *Server) spawn(ctx context.Context, r SpawnRequest, fds []int) (Created, error) {
	streams, err := nullStreams()
	if err != nil {
		return Created{}, err
	}
	defer func() { streams.close() }()
	p := s.newChild(childRecord{Request: r, life: life{Boot: s.boot, Phase: runtime.Running}})
	defer close(p.settled)
	s.mu.Lock()
	taken := s.taken(r.ID)
	if !taken {
		s.children[r.ID] = p
	}
	s.mu.Unlock()
	if taken {
		return Created{}, fmt.Errorf("start process: %w", errdefs.ErrAlreadyExists)
	}
	var ended <-chan status
	err = flow.Run(context.WithoutCancel(ctx), "start process",
		// Without a process: what the next monitor has to look for.
		flow.Step{
			Name: "save intent",
			Do:   func(context.Context) error { return p.save() },
			Undo: func(context.Context) error { return s.forgetChild(r.ID) },
		},
		flow.Step{
			Name: "open output",
			Do:   func(context.Context) error { return p.makeOutput(&streams) },
			Undo: func(context.Context) error { p.output.stop(); return nil },
		},
		flow.Step{
			Name: "start program",
			Do:   func(context.Context) (err error) { ended, err = p.start(&streams, fds); return err },
			Undo: func(context.Context) error { return p.signal(unix.SIGKILL) },
		},
		flow.Step{Name: "save record", Do: func(context.Context) error { return p.save() }})
	if err != nil {
		s.mu.Lock()
		delete(s.children, r.ID)
		s.mu.Unlock()
		return Created{}, err
	}
	p.watch(ended)
	return p.rec.Init, nil
}

// taken reports whether an id is in use. The caller holds the lock.
func (s *Server) taken(id string) bool {
	_, container := s.containers[id]
	_, child := s.children[id]
	_, mirror := s.mirrors[id]
	return container || child || mirror
}

// makeOutput makes the FIFO and starts to read it. The child gets it opened for reading
// and writing, as containers do, so that it outlives any monitor.
func (p *child) makeOutput(streams *childStreams) error {
	name := p.id() + childFIFO
	if err := makeFIFO(filepath.Join(p.srv.shelf.dir, name), 0, 0); err != nil {
		return err
	}
	for i := 1; i <= 2; i++ {
		f, err := childEnd(p.srv.shelf.dir, name, unix.O_RDWR)
		if err != nil {
			return err
		}
		streams[i].Close()
		streams[i] = f
	}
	return p.openOutput() // only now, or it would look as if it had ended
}

// openOutput reads the FIFO, and writes what comes into the log.
func (p *child) openOutput() error {
	src, err := openFIFO(p.srv.shelf.dir, p.id()+childFIFO, unix.O_RDONLY)
	if err != nil {
		return err
	}
	log := openBounded(p.rec.Request.LogPath, maxChildLog)
	output, err := startPump(src, &p.srv.buffers, func(b []byte, _ time.Time) { log.write(b) }, func(time.Time) {})
	if err != nil {
		src.Close()
		log.close()
		return fmt.Errorf("read output: %w", err)
	}
	go func() { <-output.done; log.close() }()
	p.mu.Lock()
	p.output = output
	p.mu.Unlock()
	return nil
}

// start runs the program in its cgroup.
func (p *child) start(streams *childStreams, fds []int) (ended <-chan status, err error) {
	files := streams.fds()
	for _, fd := range fds {
		files = append(files, uintptr(fd))
	}
	r := p.rec.Request
	dir := r.Dir
	if dir == "" {
		dir = "/"
	}
	attr := &syscall.ProcAttr{Dir: dir, Env: r.Env, Files: files, Sys: &syscall.SysProcAttr{Setsid: true}}
	pid := 0
	err = inCgroup(r.Cgroup, attr.Sys, func() (err error) {
		pid, ended, err = p.srv.reaper.spawn(r.Args[0], r.Args, attr)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", r.Args[0], kindOfStart(err))
	}
	st, err := readProc(pid)
	if err == nil {
		p.pidfd, err = openProcess(pid, st.start)
	}
	if err != nil {
		unix.Kill(pid, unix.SIGKILL) // nobody else can any more
		return nil, fmt.Errorf("find process: %w", err)
	}
	p.rec.Init, p.rec.StartedAt = Created{Pid: pid, StartTime: st.start}, time.Now()
	return ended, nil
}

// kindOfStart says whose fault it is that a program cannot be executed.
func kindOfStart(err error) error {
	for _, wrong := range []error{unix.ENOENT, unix.EACCES, unix.ENOEXEC, unix.ENOTDIR} {
		if errors.Is(err, wrong) {
			return fmt.Errorf("%w: %w", errdefs.ErrFailedPrecondition, err)
		}
	}
	return err
}

// endUntold kills the process that a monitor started and could not note any more: who
// has its FIFO as standard output or error.
func (s *Server) endUntold(id string) error {
	var want unix.Stat_t
	if err := unix.Stat(filepath.Join(s.shelf.dir, id+childFIFO), &want); err != nil {
		return nil // it never got that far
	}
	for _, pid := range candidates(cgroup{}) {
		if pid == os.Getpid() || !writesTo(pid, &want) {
			continue
		}
		st, err := readProc(pid)
		if err != nil || !writesTo(pid, &want) { // again: now the start time is its own
			continue
		}
		if err := killTree(Created{Pid: pid, StartTime: st.start}, st.session, cgroup{}); err != nil {
			return err
		}
	}
	return nil
}

func writesTo(pid int, file *unix.Stat_t) bool {
	for _, fd := range []string{"1", "2"} {
		var st unix.Stat_t
		err := unix.Stat(filepath.Join("/proc", strconv.Itoa(pid), "fd", fd), &st)
		if err == nil && st.Dev == file.Dev && st.Ino == file.Ino {
			return true
		}
	}
	return false
}

// forgetChild removes what is on file of a child.
func (s *Server) forgetChild(id string) error {
	err := os.Remove(filepath.Join(s.shelf.dir, id+childFIFO))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove FIFO: %w", err)
	}
	return s.shelf.remove(id, childSuffix)
}

// listed is how a child shows in a list.
func (p *child) listed() Entry {
	r := &p.rec.Request
	return Entry{Kind: KindProcess, ID: r.ID, Sandbox: r.Sandbox, State: p.state()}
}
