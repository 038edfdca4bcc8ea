package executor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Descriptors of the stub.
const (
	fdChannel = 3
	fdExtra   = 5 // the first of those that a plan brings along; 4 is the plan
	fdMaster  = 10
	fdSlave   = 11
	fdContext = 12 // a file system while it is configured
	fdMounts  = 20 // the first file system
)

// What the stub says on its channel: four words, of which the first is one of these.
const (
	saysReady = 1
	saysError = 2 // operation, errno

	messageSize = 16
)

// setupTime bounds every step of a process that is being set up.
const setupTime = 30 * time.Second

// launch describes how a stub is started.
type launch struct {
	plan  *plan
	stdio [3]*os.File
	extra []*os.File // descriptors from fdExtra on
	// cgroup is the directory that the process starts in.
	cgroup *os.File
	attr   syscall.SysProcAttr
}

// stub is a process that carries out a plan.
type stub struct {
	plan    *plan
	channel int
	pid     int      // in this process's namespace
	pidfd   *os.File // nil before the first ready
}

// ready appends what makes the stub report and wait for proceed.
func (p *plan) ready() { p.readyFor(make([]byte, 8)) }

// readyFor is ready for a proceed with so many bytes, whose address it returns.
func (p *plan) readyFor(answer []byte) uint64 {
	message := make([]byte, messageSize)
	binary.NativeEndian.PutUint32(message, saysReady)
	p.add("report", unix.SYS_WRITE, fdChannel, message, messageSize)
	at := p.put(answer)
	gate := p.add("wait for its monitor", unix.SYS_READ, fdChannel, at, len(answer))
	p.ops[gate].flags = flagNonzero
	return at
}

// start starts a stub from the calling thread, whose namespaces it inherits.
func (e *Executor) start(l launch) (*stub, error) {
	file, err := l.plan.file()
	if err != nil {
		return nil, err
	}
	defer file.Close()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make channel: %w", err)
	}
	defer unix.Close(pair[1])
	s := &stub{plan: l.plan, channel: pair[0]}
	limit := unix.NsecToTimeval(int64(setupTime))
	err = errors.Join(unix.SetsockoptTimeval(s.channel, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit),
		unix.SetsockoptInt(s.channel, unix.SOL_SOCKET, unix.SO_PASSCRED, 1))
	if err != nil {
		s.close()
		return nil, fmt.Errorf("set up channel: %w", err)
	}
	files := []uintptr{l.stdio[0].Fd(), l.stdio[1].Fd(), l.stdio[2].Fd(), uintptr(pair[1]), file.Fd()}
	for _, f := range l.extra {
		files = append(files, f.Fd())
	}
	l.attr.UseCgroupFD, l.attr.CgroupFD = true, int(l.cgroup.Fd())
	path := "/proc/self/fd/" + strconv.Itoa(int(e.program.Fd()))
	s.pid, err = syscall.ForkExec(path, []string{"stub"}, &syscall.ProcAttr{Files: files, Sys: &l.attr})
	if err != nil {
		s.close()
		return nil, fmt.Errorf("start process: %w", err)
	}
	return s, nil
}

// await returns when the stub is ready.
func (s *stub) await() error {
	kind, pid, err := s.receive()
	if err != nil {
		return err
	}
	if kind != saysReady || pid <= 0 {
		return fmt.Errorf("set up process: it ended: %w", errdefs.ErrUnavailable)
	}
	if s.pidfd != nil {
		return nil
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("open process: %w", err)
	}
	s.pid, s.pidfd = pid, os.NewFile(uintptr(fd), "pidfd")
	return nil
}

// receive takes a message and the process that sent it; kind is 0 if there will be none
// any more.
func (s *stub) receive() (kind uint32, pid int, err error) {
	message, control := make([]byte, messageSize), make([]byte, unix.CmsgSpace(unix.SizeofUcred))
	var n, controls int
	for {
		n, controls, _, _, err = unix.Recvmsg(s.channel, message, control, unix.MSG_CMSG_CLOEXEC)
		if err != unix.EINTR {
			break
		}
	}
	switch {
	case errors.Is(err, unix.EAGAIN):
		return 0, 0, fmt.Errorf("set up process: it does not answer: %w", errdefs.ErrUnavailable)
	case err != nil:
		return 0, 0, fmt.Errorf("set up process: %w", err)
	case n != messageSize:
		return 0, 0, nil
	}
	kind = binary.NativeEndian.Uint32(message)
	if kind == saysError {
		step := s.plan.label(binary.NativeEndian.Uint32(message[4:]))
		return 0, 0, &stepError{step: step, errno: unix.Errno(binary.NativeEndian.Uint32(message[8:]))}
	}
	list, err := unix.ParseSocketControlMessage(control[:controls])
	if err != nil || len(list) != 1 {
		return 0, 0, fmt.Errorf("set up process: no credentials: %w", errors.Join(err, errdefs.ErrInternal))
	}
	cred, err := unix.ParseUnixCredentials(&list[0])
	if err != nil {
		return 0, 0, fmt.Errorf("set up process: %w", err)
	}
	return kind, int(cred.Pid), nil
}

// stepError is a system call of a plan that failed.
type stepError struct {
	step  string
	errno unix.Errno
}

func (e *stepError) Error() string { return e.step + ": " + e.errno.Error() }
func (e *stepError) Unwrap() error { return e.errno }

// proceed lets the stub go on after await. It gets at least one byte of answer.
func (s *stub) proceed(answer string) error {
	if err := unix.Send(s.channel, append([]byte(answer), 0), unix.MSG_NOSIGNAL); err != nil {
		return fmt.Errorf("set up process: %w", err)
	}
	return nil
}

// execute lets the stub go on to its last operation and returns when the program has
// been executed.
func (s *stub) execute() error {
	if err := s.proceed(""); err != nil {
		return err
	}
	_, _, err := s.receive()
	return err
}

// take returns a descriptor of the stub.
func (s *stub) take(fd int) (*os.File, error) {
	got, err := unix.PidfdGetfd(int(s.pidfd.Fd()), fd, 0)
	if err != nil {
		return nil, fmt.Errorf("take descriptor of process: %w", err)
	}
	return os.NewFile(uintptr(got), "taken"), nil
}

// terminal returns the master of the stub's terminal, ready for Go's poller.
func (s *stub) terminal() (*os.File, error) {
	got, err := unix.PidfdGetfd(int(s.pidfd.Fd()), fdMaster, 0)
	if err != nil {
		return nil, fmt.Errorf("take terminal of process: %w", err)
	}
	if err := unix.SetNonblock(got, true); err != nil {
		unix.Close(got)
		return nil, fmt.Errorf("take terminal of process: %w", err)
	}
	return os.NewFile(uintptr(got), "terminal"), nil
}

// abort ends a stub that is not wanted any more.
func (s *stub) abort() {
	if s.pidfd != nil {
		_ = unix.PidfdSendSignal(int(s.pidfd.Fd()), unix.SIGKILL, nil, 0) // it ends with its channel anyway
	}
	s.close()
}

func (s *stub) close() {
	s.hangUp()
	if s.pidfd != nil {
		s.pidfd.Close()
	}
}

// hangUp closes the channel; without it a stub that still waits ends.
func (s *stub) hangUp() {
	if s.channel >= 0 {
		unix.Close(s.channel)
		s.channel = -1
	}
}

// onThread runs fn on a thread of its own, which is thrown away: fn may move it to
// other namespaces.
func onThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The main thread cannot be thrown away: it is kept busy meanwhile.
			done <- onThread(fn)
			runtime.UnlockOSThread()
			return
		}
		// Not unlocked: the thread ends with this goroutine.
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			done <- fmt.Errorf("unshare working directory: %w", err)
			return
		}
		done <- fn()
	}()
	return <-done
}
