package monitor

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
)

// execution is a process that was added to a running container.
type execution struct {
	c       *container
	req     ExecRequest
	session *session
	child   childStreams
	console *consoleSocket
	stdin   *os.File
	master  *os.File
	pumps   []*pump
	ended   <-chan status
	rec     execRecord
	// uid and gid are the owner of the pipes.
	uid, gid int
}

// exec runs a process to its end, whatever becomes of the client meanwhile.
func (c *container) exec(conn net.Conn, req ExecRequest) (runtime.Exit, error) {
	if st := c.state(); st.Phase != runtime.Running {
		return runtime.Exit{}, fmt.Errorf("exec in container that is %s: %w", st.Phase, errdefs.ErrFailedPrecondition)
	}
	if len(req.Process.Args) == 0 {
		return runtime.Exit{}, fmt.Errorf("exec: no arguments: %w", errdefs.ErrInvalidArgument)
	}
	e := &execution{c: c, req: req, session: &session{conn: conn}}
	if err := e.open(); err != nil {
		e.child.close()
		e.close()
		return runtime.Exit{}, err
	}
	err := e.spawn()
	e.child.close() // our copies of the child's ends would hide the end of its output
	if err != nil {
		e.close()
		return runtime.Exit{}, err
	}
	go e.session.input(e.input(), e.resize, func(bool) { e.closeStdin() })
	exit := e.wait()
	for _, p := range e.pumps {
		p.drainFor(0) // a client that reads slowly still gets everything
	}
	e.part()
	return exit, nil
}

func (e *execution) open() (err error) {
	if e.child, err = nullStreams(); err != nil {
		return err
	}
	if e.req.Process.Terminal {
		if !e.c.srv.inProcess(e.c.rec.Request) {
			e.console, err = e.c.srv.listenConsole()
		}
		return err
	}
	// Who cannot be found is root: where it matters the runtime does it, as in pipe.
	e.uid, e.gid, _ = streamOwner(nil, e.c.rec.Request.Bundle)
	if e.req.Stdin {
		if e.stdin, err = e.pipe(0); err != nil {
			return err
		}
	}
	for i, kind := range map[int]byte{1: frameStdout, 2: frameStderr} {
		src, err := e.pipe(i)
		if err != nil {
			return err
		}
		if err := e.pump(src, kind); err != nil {
			src.Close()
			return err
		}
	}
	return nil
}

// pipe makes a pipe, gives one end to the child as descriptor i and returns the other.
// Like a container, the process gets its output opened for reading and writing: there
// always is a reader, so neither the death of this monitor nor the end of the exec ever
// raises SIGPIPE.
func (e *execution) pipe(i int) (*os.File, error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, fmt.Errorf("make pipe: %w", err)
	}
	ours, theirs := p[0], p[1]
	if i == 0 {
		ours, theirs = p[1], p[0]
	}
	if i != 0 {
		if err := e.widen(&theirs); err != nil {
			closeFDs([]int{ours, theirs})
			return nil, err
		}
	}
	// As for FIFOs. Where it cannot be done, as in a user namespace, the runtime does it.
	_ = unix.Fchown(theirs, e.uid, e.gid)
	_ = unix.SetNonblock(ours, true) // of an open descriptor it cannot fail
	e.child[i].Close()
	e.child[i] = os.NewFile(uintptr(theirs), "pipe")
	return os.NewFile(uintptr(ours), "pipe"), nil
}

// widen opens the writing end of a pipe anew, for reading too, and notes which it is.
func (e *execution) widen(fd *int) error {
	var st unix.Stat_t
	if err := unix.Fstat(*fd, &st); err != nil {
		return fmt.Errorf("look at pipe: %w", err)
	}
	both, err := unix.Open("/proc/self/fd/"+strconv.Itoa(*fd), unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open pipe for reading and writing: %w", err)
	}
	unix.Close(*fd)
	*fd = both
	e.rec.Pipes = append(e.rec.Pipes, st.Ino)
	return nil
}

func (e *execution) pump(src *os.File, kind byte) error {
	p, err := startPump(src, &e.c.srv.buffers, func(b []byte, _ time.Time) { e.session.write(kind, b) }, func(time.Time) {})
	if err != nil {
		return fmt.Errorf("read output: %w", err)
	}
	e.pumps = append(e.pumps, p)
	return nil
}

func (e *execution) spawn() error {
	if e.c.srv.inProcess(e.c.rec.Request) {
		return e.execute()
	}
	c, bundle := e.c, e.c.rec.Request.Bundle
	began, rt := time.Now(), c.rec.Request.Runtime
	// Unlike the number, the time is never that of an exec of an earlier monitor.
	unique := strconv.FormatInt(began.UnixNano(), 36) + "-" + strconv.FormatUint(c.srv.calls.Add(1), 10)
	name := filepath.Join(bundle, "exec-"+unique)
	process, pidFile := name+".json", name+".pid"
	defer os.Remove(process)
	defer os.Remove(pidFile)
	b, err := json.Marshal(e.req.Process)
	if err != nil {
		return fmt.Errorf("encode process: %w", err)
	}
	if err := os.WriteFile(process, b, 0o600); err != nil {
		return fmt.Errorf("write process: %w", err)
	}
	e.rec.Key, e.rec.Container, e.rec.PidFile = c.rec.Request.ID+"."+unique, c.rec.Request.ID, pidFile
	if err := e.note(); err != nil {
		return err
	}
	console := ""
	if e.console != nil {
		console = e.console.path
	}
	// What the runtime starts has its score from the runtime itself, if that is quick enough.
	begun := func(pid int) { _ = adjustOOM(pid, e.req.Process.OOMScoreAdj) }
	err = c.srv.callWith(rt, bundle, callOptions{streams: &e.child, begun: begun}, func(log string) []string {
		return rt.Exec(log, process, pidFile, console, c.rec.Request.ID)
	})
	if err != nil {
		return err
	}
	if e.rec.Process.Pid, err = readPidFile(pidFile); err != nil {
		return err
	}
	e.ended = c.srv.reaper.claim(e.rec.Process.Pid, began)
	if err := adjustOOM(e.rec.Process.Pid, e.req.Process.OOMScoreAdj); err != nil {
		c.srv.log.Warn("adjust exec", slog.String("container", c.rec.Request.ID), slog.Any("error", err))
	}
	if st, err := readProc(e.rec.Process.Pid); err == nil { // else it has ended already
		e.rec.Process.StartTime, e.rec.Session = st.start, st.session
	}
	if err := e.note(); err != nil { // it runs; only the next monitor would not know it
		c.srv.log.Warn("save exec", slog.String("container", c.rec.Request.ID), slog.Any("error", err))
	}
	if e.console == nil {
		return nil
	}
	if e.master, err = e.console.accept(); err != nil {
		return err
	}
	return e.pump(e.master, frameStdout)
}

func (e *execution) input() *os.File {
	if e.master != nil {
		return e.master
	}
	return e.stdin
}

func (e *execution) resize(s runtime.Size) { resizeTerminal(e.master, s) }

func resizeTerminal(master *os.File, s runtime.Size) {
	if master == nil {
		return
	}
	if raw, err := master.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) { _ = setSize(int(fd), s) }) // a terminal that is gone has no size
	}
}

// closeStdin passes the end of input on. A terminal has no half-close: the client
// types ^D there.
func (e *execution) closeStdin() {
	if e.stdin != nil {
		e.stdin.Close() // may be called twice
	}
}

// wait returns how the process ended, or was ended when its time was over.
func (e *execution) wait() runtime.Exit {
	var late <-chan time.Time
	if e.req.Timeout > 0 {
		timer := time.NewTimer(e.req.Timeout)
		defer timer.Stop()
		late = timer.C
	}
	select {
	case st := <-e.ended:
		return runtime.Exit{Code: st.code, At: st.at}
	case <-late:
	}
	if err := killTree(e.rec.Process, e.rec.Session, e.c.rec.Cgroup); err != nil {
		e.c.srv.log.Warn("kill exec that took too long", slog.String("container", e.c.rec.Request.ID), slog.Any("error", err))
	}
	st := <-e.ended
	return runtime.Exit{Code: st.code, At: st.at, TimedOut: true}
}

// part lets go of a process that has ended, but not of what it left behind.
func (e *execution) part() {
	if e.master != nil { // who is left behind at a terminal is hung up
		e.close()
		return
	}
	e.closeStdin()
	e.session.end()
	go e.c.srv.outlast(e.c, e.rec.Key, e.pumps)
}

func (e *execution) close() {
	if e.rec.Key != "" {
		e.c.srv.discard(e.rec.Key, execSuffix)
	}
	if e.console != nil {
		e.console.close()
	}
	e.closeStdin()
	for _, p := range e.pumps {
		p.stop()
	}
	if e.master != nil {
		e.master.Close()
	}
}
