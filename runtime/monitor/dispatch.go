package monitor

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// dispatch does what a request asks for.
func (s *Server) dispatch(ctx context.Context, conn net.Conn, req request) (any, error) {
	switch req.Op {
	case "reexec":
		select {
		case s.upgrade <- struct{}{}:
		default: // asked for already
		}
		return nil, nil
	case "hello":
		return Info{Version: Version, Oldest: Oldest, Pid: os.Getpid(), BootID: s.boot, MirrorNames: true}, nil
	case "list":
		return s.list(), nil
	case "restored":
		s.restoredOnce.Do(func() { close(s.restored) })
		return nil, nil
	case "create":
		return with(req, func(r CreateRequest) (Created, error) { return s.create(ctx, r) })
	case "delete":
		return nil, s.remove(ctx, req.ID)
	case "spawn":
		return with(req, func(r spawnBody) (Created, error) { return s.spawnFrom(ctx, conn, r) })
	case "mirror":
		return with(req, func(r MirrorRequest) (any, error) { return nil, s.mirror(r) })
	case "hold":
		return with(req, func(r HoldRequest) (holdReply, error) { return s.hold(ctx, r) })
	case "release":
		return nil, s.release(req.ID)
	}
	if p := s.findChild(req.ID); p != nil {
		return p.dispatch(ctx, conn, req)
	}
	if m := s.findMirror(req.ID); m != nil {
		return m.dispatch(ctx, conn, req)
	}
	c, err := s.find(req.ID)
	if err != nil {
		return nil, err
	}
	switch req.Op {
	case "start":
		at, err := c.start(ctx)
		return startReply{At: at}, err
	case "state":
		return c.state(), nil
	case "signal":
		return with(req, func(r signalRequest) (any, error) { return nil, c.signal(r.Signal) })
	case "wait":
		ctx, cancel := untilGone(ctx, conn)
		defer cancel()
		return c.wait(ctx)
	case "reopen":
		return nil, c.log.Reopen()
	case "log":
		return with(req, func(r LogRequest) (any, error) { return nil, c.streamLog(ctx, conn, r) })
	case "update":
		return with(req, func(r specs.LinuxResources) (any, error) { return nil, c.update(&r) })
	case "keep":
		return c.keep(conn)
	case "adopt":
		return with(req, func(r adoptRequest) (any, error) { return nil, c.adopt(conn, r) })
	case "exec":
		return with(req, func(r ExecRequest) (any, error) { return c.exec(conn, r) })
	case "checkpoint":
		return with(req, func(r CheckpointRequest) (any, error) { return nil, c.checkpoint(ctx, conn, r) })
	case "attach":
		return with(req, func(r attachRequest) (any, error) { return nil, c.attach(ctx, conn, r) })
	}
	return nil, fmt.Errorf("serve call %q: %w", req.Op, errdefs.ErrNotImplemented)
}

// dispatch does what a request asks of a process that Spawn started.
func (p *child) dispatch(ctx context.Context, conn net.Conn, req request) (any, error) {
	switch req.Op {
	case "state":
		return p.state(), nil
	case "signal":
		return with(req, func(r signalRequest) (any, error) { return nil, p.signal(r.Signal) })
	case "wait":
		ctx, cancel := untilGone(ctx, conn)
		defer cancel()
		return p.wait(ctx)
	}
	return nil, fmt.Errorf("call %q on a process that is no container: %w", req.Op, errdefs.ErrFailedPrecondition)
}

// dispatch does what a request asks of a mirror.
func (m *mirror) dispatch(ctx context.Context, conn net.Conn, req request) (any, error) {
	switch req.Op {
	case "state":
		return m.state(), nil
	case "reopen":
		return nil, m.reopen()
	case "flush":
		ctx, cancel := untilGone(ctx, conn)
		defer cancel()
		return nil, m.flush(ctx)
	}
	return nil, fmt.Errorf("call %q on the mirror of a log: %w", req.Op, errdefs.ErrFailedPrecondition)
}

// with decodes the body of a request.
func with[T, R any](req request, do func(T) (R, error)) (any, error) {
	var body T
	if err := json.Unmarshal(req.Body, &body); err != nil {
		return nil, fmt.Errorf("decode %s: %w: %w", req.Op, errdefs.ErrInvalidArgument, err)
	}
	return do(body)
}

// untilGone returns a context that ends when the client closes the connection. A
// client that waits sends nothing.
func untilGone(ctx context.Context, conn net.Conn) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer cancel()
		var b [1]byte
		_, _ = conn.Read(b[:]) // however it ends, the client has said its last
	}()
	return ctx, cancel
}
