package monitor

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime/flow"
)

// held is a process that keeps namespaces.
type held struct {
	hold  hold
	pidfd *os.File
	ended <-chan status // nil if an earlier monitor fathered it
	// settled is closed when the process serves or its start has failed.
	settled chan struct{}
	// releasing is held while the process is ended: its end is told once.
	releasing sync.Mutex
}

func (h *held) complete() bool {
	select {
	case <-h.settled:
		return true
	default:
		return false
	}
}

func cloneFlag(t specs.LinuxNamespaceType) (uintptr, bool) {
	switch t {
	case specs.PIDNamespace:
		return unix.CLONE_NEWPID, true
	case specs.NetworkNamespace:
		return unix.CLONE_NEWNET, true
	case specs.IPCNamespace:
		return unix.CLONE_NEWIPC, true
	case specs.UTSNamespace:
		return unix.CLONE_NEWUTS, true
	case specs.UserNamespace:
		return unix.CLONE_NEWUSER, true
	}
	return 0, false
}

// ownNamespaces are those that every holder has for itself, so that it does not have
// the host's.
const ownNamespaces = unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP

// holdAttr describes the process to be started, without its streams.
func holdAttr(r HoldRequest) (*syscall.SysProcAttr, error) {
	attr := &syscall.SysProcAttr{Setsid: true, Cloneflags: ownNamespaces}
	for _, t := range r.Namespaces {
		flag, ok := cloneFlag(t)
		if !ok {
			return nil, fmt.Errorf("hold a namespace of type %q: %w", t, errdefs.ErrInvalidArgument)
		}
		attr.Cloneflags |= flag
	}
	if attr.Cloneflags&unix.CLONE_NEWUSER != 0 {
		attr.UidMappings, attr.GidMappings = idMap(r.UIDMappings), idMap(r.GIDMappings)
		attr.GidMappingsEnableSetgroups = true
		attr.Credential = &syscall.Credential{}
	}
	return attr, nil
}

func idMap(m []specs.LinuxIDMapping) []syscall.SysProcIDMap {
	var ids []syscall.SysProcIDMap
	for _, e := range m {
		ids = append(ids, syscall.SysProcIDMap{ContainerID: int(e.ContainerID), HostID: int(e.HostID), Size: int(e.Size)})
	}
	return ids
}

func (s *Server) hold(ctx context.Context, r HoldRequest) (holdReply, error) {
	if !validID(r.ID) || len(r.Namespaces) == 0 {
		return holdReply{}, fmt.Errorf("check hold: %w", errdefs.ErrInvalidArgument)
	}
	attr, err := holdAttr(r)
	if err != nil {
		return holdReply{}, err
	}
	h := &held{settled: make(chan struct{})}
	defer close(h.settled)
	s.mu.Lock()
	_, taken := s.holds[r.ID]
	if !taken {
		s.holds[r.ID] = h
	}
	s.mu.Unlock()
	if taken {
		return holdReply{}, fmt.Errorf("hold namespaces: %w", errdefs.ErrAlreadyExists)
	}
	if err := s.startHold(ctx, r, h, attr); err != nil {
		s.mu.Lock()
		delete(s.holds, r.ID)
		s.mu.Unlock()
		return holdReply{}, err
	}
	return holdReply{Pid: h.hold.Init.Pid}, nil
}

func (s *Server) startHold(ctx context.Context, r HoldRequest, h *held, attr *syscall.SysProcAttr) error {
	h.hold = hold{ID: r.ID, Boot: s.boot}
	report, remote, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("hold namespaces: %w", err)
	}
	defer report.Close()
	defer remote.Close()
	save := func(context.Context) error { return s.shelf.save(r.ID, holdSuffix, h.hold) }
	return flow.Run(context.WithoutCancel(ctx), "hold namespaces",
		// Without a process: what the next monitor has to look for.
		flow.Step{Name: "save intent", Do: save, Undo: func(context.Context) error { return s.shelf.remove(r.ID, holdSuffix) }},
		flow.Step{
			Name: "start pod init",
			Do:   func(context.Context) error { return s.startPodInit(h, attr, remote) },
			Undo: func(context.Context) error { return h.end() },
		},
		// Nobody gets to see it before.
		flow.Step{Name: "confine pod init", Do: func(context.Context) error { return awaitConfined(report, remote) }},
		flow.Step{Name: "save record", Do: save})
}

// startPodInit gives the process the pod's id as an argument, by which it is found if
// the monitor dies before it has noted the process id.
func (s *Server) startPodInit(h *held, attr *syscall.SysProcAttr, report *os.File) error {
	streams, err := nullStreams()
	if err != nil {
		return err
	}
	defer streams.close()
	program, err := sealedIdle()
	if err != nil {
		return err
	}
	defer program.Close()
	pid, ended, err := s.reaper.spawn(s.podInit[0], append(slices.Clone(s.podInit), h.hold.ID), &syscall.ProcAttr{
		Dir: "/", Env: []string{"GOMAXPROCS=1"}, Files: append(streams.fds(), report.Fd(), program.Fd()), Sys: attr,
	})
	if err != nil {
		return fmt.Errorf("start pod init: %w", err)
	}
	h.ended = ended
	st, err := readProc(pid)
	if err != nil {
		return fmt.Errorf("find pod init: %w", err)
	}
	h.hold.Init = Created{Pid: pid, StartTime: st.start}
	h.pidfd, err = openProcess(pid, st.start)
	return err
}

// confineTime bounds how long a pod init may take to confine itself.
const confineTime = 20 * time.Second

// awaitConfined returns when a pod init has said, as the last thing it can say, that
// it is confined. remote is its end of the pipe.
func awaitConfined(report, remote *os.File) error {
	remote.Close() // or its death would not be the end of the report
	if err := report.SetReadDeadline(time.Now().Add(confineTime)); err != nil {
		return err
	}
	text, err := io.ReadAll(io.LimitReader(report, 4096))
	if err != nil {
		return fmt.Errorf("%w: %w", errdefs.ErrUnavailable, err)
	}
	if string(text) != podInitArg {
		return fmt.Errorf("%w: it says %q", errdefs.ErrInternal, text)
	}
	return nil
}

// end kills the process and returns when it is dead. ErrUnavailable if it does not die: with
// a PID namespace it waits for everything in that.
func (h *held) end() error {
	if err := sendSignal(h.pidfd, unix.SIGKILL); err != nil {
		return err
	}
	if h.ended == nil {
		return waitProcessFor(h.pidfd, killTime)
	}
	select {
	case <-h.ended:
		return nil
	case <-time.After(killTime):
		return errdefs.ErrUnavailable
	}
}

// release ends a held process. With a PID namespace everything in it ends too. One that
// is being started is waited for: whoever asked for it may be gone.
func (s *Server) release(id string) error {
	s.mu.Lock()
	h, ok := s.holds[id]
	s.mu.Unlock()
	if !ok {
		return nil
	}
	<-h.settled
	h.releasing.Lock()
	defer h.releasing.Unlock()
	s.mu.Lock()
	left := s.holds[id] == h
	s.mu.Unlock()
	if !left { // its start failed, or another call has released it
		return nil
	}
	if err := h.end(); err != nil {
		return fmt.Errorf("release namespaces: %w", err)
	}
	s.mu.Lock()
	delete(s.holds, id)
	s.mu.Unlock()
	h.pidfd.Close()
	return s.shelf.remove(filepath.Base(id), holdSuffix)
}
