package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/logfile"
	"github.com/cricket-cri/cricket/runtime/wirekind"
)

// Options configure a Server.
type Options struct {
	// State is the directory for records; it is made if it is missing.
	State string
	// PodInit is the command line of the process that Hold starts. It defaults to this
	// program with the argument pod-init. The pod's id is appended.
	PodInit []string
	// Executor, if set, runs the containers whose request names no OCI runtime.
	Executor Executor
	// Boot tells this kernel's records from an earlier one's; empty for the kernel's own
	// boot id, which the copies of a virtual machine have in common.
	Boot string
	Log  *slog.Logger

	handoff *handoff
}

// Server supervises containers. There can be one in a process: it waits for all
// children of the process.
type Server struct {
	log      *slog.Logger
	shelf    shelf
	dir      *os.File
	boot     string
	podInit  []string
	executor Executor // nil without
	reaper   *reaper
	logs     logfile.Set
	buffers  buffers
	binaries binaries
	calls    atomic.Uint64
	upgrade  chan struct{} // has room for one
	work     sync.WaitGroup
	// restored is closed when a Keeper has handed over all that it had.
	restored     chan struct{}
	restoredOnce sync.Once

	mirroring sync.Mutex // serializes the beginning of mirrors

	mu         sync.Mutex
	containers map[string]*container
	pending    map[string]chan struct{} // being created, closed when that has ended
	children   map[string]*child
	mirrors    map[string]*mirror
	channels   map[string]*channel // by socket
	holds      map[string]*held
	conns      map[net.Conn]struct{}
	closed     bool
	busy       int           // calls that a re-exec must wait for
	frozen     chan struct{} // of a re-exec under way, closed if that is put off; or nil
	handoff    map[string]handoffItem
}

// NewServer takes over what an earlier monitor left in the state directory.
func NewServer(o Options) (*Server, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.PodInit == nil {
		o.PodInit = []string{"/proc/self/exe", podInitArg}
	}
	if err := os.MkdirAll(o.State, 0o700); err != nil {
		return nil, fmt.Errorf("make state directory: %w", err)
	}
	state, err := filepath.Abs(o.State)
	if err != nil {
		return nil, fmt.Errorf("resolve state directory: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("become subreaper: %w", err)
	}
	boot := o.Boot
	if boot == "" {
		if boot, err = bootID(); err != nil {
			return nil, err
		}
	}
	dir, err := os.Open(state)
	if err != nil {
		return nil, fmt.Errorf("open state directory: %w", err)
	}
	s := &Server{
		log: o.Log, shelf: shelf{dir: state}, dir: dir, upgrade: make(chan struct{}, 1), boot: boot, podInit: o.PodInit, executor: o.Executor, reaper: newReaper(),
		containers: make(map[string]*container), pending: make(map[string]chan struct{}), children: make(map[string]*child),
		mirrors: make(map[string]*mirror), channels: make(map[string]*channel),
		holds: make(map[string]*held), conns: make(map[net.Conn]struct{}), restored: make(chan struct{}),
	}
	if o.handoff != nil {
		s.handoff = o.handoff.Containers
	}
	s.adoptAll()
	s.handoff = nil
	return s, nil
}

// Serve answers connections until ctx ends or the listener fails. Containers go on.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			s.hangUp()
			return nil
		}
		if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ECONNABORTED) {
			s.log.Warn("accept", slog.Any("error", err))
			time.Sleep(10 * time.Millisecond) // others will close theirs
			continue
		}
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		go s.ServeConn(ctx, conn)
	}
}

// hangUpTime bounds how long calls may take to end with the server. An exec, whose
// process goes on, does not end.
const hangUpTime = 2 * time.Second

// hangUp refuses new calls, lets go of those that only wait, and gives the others time.
func (s *Server) hangUp() {
	s.mu.Lock()
	s.closed = true
	for conn := range s.conns {
		conn.SetReadDeadline(time.Unix(1, 0)) // those that wait are reading
	}
	s.mu.Unlock()
	done := make(chan struct{})
	go func() { defer close(done); s.work.Wait() }()
	select {
	case <-done:
	case <-time.After(hangUpTime):
	}
}

// headerTime bounds how long a client may take to say what it wants. In a machine whose
// processor is held back it is this side that is slow.
const headerTime = time.Minute

// ServeConn answers the one call of a connection and closes it. Nothing that arrives
// can do more than fail the call.
func (s *Server) ServeConn(ctx context.Context, conn net.Conn) {
	if !s.track(conn) {
		conn.Close()
		return
	}
	defer s.untrack(conn)
	defer func() {
		if v := recover(); v != nil {
			s.log.Error("call panicked", slog.Any("panic", v))
			respond(conn, nil, fmt.Errorf("serve call: %v: %w", v, errdefs.ErrInternal))
		}
	}()
	if !s.letIn(ctx, conn) {
		return
	}
	conn.SetReadDeadline(time.Now().Add(headerTime))
	kind, payload, err := readFrame(conn, nil)
	conn.SetReadDeadline(time.Time{})
	if err != nil || kind != frameHeader {
		respond(conn, nil, fmt.Errorf("read request: %w", errors.Join(err, errdefs.ErrInvalidArgument)))
		return
	}
	var req request
	if err := json.Unmarshal(payload, &req); err != nil {
		respond(conn, nil, fmt.Errorf("decode request: %w: %w", errdefs.ErrInvalidArgument, err))
		return
	}
	if req.Oldest > Version || req.Version < Oldest {
		respond(conn, nil, fmt.Errorf("speak protocol %d to %d, here it is %d to %d: %w",
			req.Oldest, req.Version, Oldest, Version, errdefs.ErrNotImplemented))
		return
	}
	if !interruptible(req.Op) {
		if err := s.begin(); err != nil {
			respond(conn, nil, err)
			return
		}
		defer s.end() // once it is answered, or a re-exec would cut the answer off
	}
	body, err := s.dispatch(ctx, conn, req)
	respond(conn, body, err)
}

func respond(conn net.Conn, body any, err error) {
	r := response{Version: Version}
	if err == nil && body != nil {
		r.Body, err = json.Marshal(body)
	}
	if err != nil {
		text := err.Error()
		r.Kind, r.Error = wirekind.Of(err), text[:min(len(text), maxError)]
	}
	conn.SetWriteDeadline(time.Now().Add(headerTime))
	_ = writeJSON(conn, frameHeader, r) // the client is gone: nobody to tell
}

func (s *Server) track(conn net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.conns[conn] = struct{}{}
	s.work.Add(1)
	return true
}

func (s *Server) untrack(conn net.Conn) {
	conn.Close()
	s.mu.Lock()
	delete(s.conns, conn)
	s.mu.Unlock()
	s.work.Done()
}

// find returns a container that is completely made.
func (s *Server) find(id string) (*container, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.containers[id]
	if !ok || s.pending[id] != nil {
		return nil, fmt.Errorf("find container: %w", errdefs.ErrNotFound)
	}
	return c, nil
}

func (s *Server) reserve(id string, c *container) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken(id) {
		return false
	}
	s.containers[id], s.pending[id] = c, make(chan struct{})
	return true
}

func (s *Server) publish(c *container) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settlePending(c.rec.Request.ID)
}

func (s *Server) forget(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.containers, id)
	s.settlePending(id)
}

// settlePending is called with mu held.
func (s *Server) settlePending(id string) {
	if made, ok := s.pending[id]; ok {
		close(made)
		delete(s.pending, id)
	}
}

// watch settles the container when its init ends: the end of our own child, or of a
// process that an earlier monitor fathered if ended is nil.
func (s *Server) watch(c *container, ended <-chan status) {
	pidfd := c.pidfd
	go func() {
		if ended != nil {
			st := <-ended
			c.settle(runtime.Exit{Code: st.code, At: st.at})
			return
		}
		c.settle(adoptedExit(pidfd))
	}()
}

func (s *Server) list() []Entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	entries := []Entry{}
	for id, c := range s.containers {
		if s.pending[id] == nil {
			r := &c.rec.Request // never changes
			entries = append(entries, Entry{ID: id, Sandbox: r.Sandbox, Bundle: r.Bundle, State: c.state()})
		}
	}
	for _, p := range s.children {
		select {
		case <-p.settled:
			entries = append(entries, p.listed())
		default:
		}
	}
	for id, m := range s.mirrors {
		entries = append(entries, Entry{Kind: KindMirror, ID: id, Sandbox: m.rec.Request.Sandbox, State: m.state()})
	}
	for id, h := range s.holds {
		if h.complete() {
			entries = append(entries, Entry{Kind: KindHold, ID: id})
		}
	}
	return entries
}

// createTime is how long a call that deletes a container waits for its creation to end.
const createTime = 10 * time.Second

func (s *Server) remove(ctx context.Context, id string) error {
	s.mu.Lock()
	c, ok := s.containers[id]
	p, m := s.children[id], s.mirrors[id]
	pending := s.pending[id]
	s.mu.Unlock()
	switch {
	case p != nil:
		return p.remove(ctx)
	case m != nil:
		return m.remove()
	}
	if !ok {
		return nil
	}
	if pending != nil {
		// Whoever asked for it has died, or it would not be deleted: nobody else waits.
		select {
		case <-pending:
			return s.remove(ctx, id)
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(createTime):
			return fmt.Errorf("delete container that is being created: %w", errdefs.ErrFailedPrecondition)
		}
	}
	if err := c.remove(ctx); err != nil {
		return err
	}
	s.forget(id)
	return nil
}
