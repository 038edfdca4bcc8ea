package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
)

// Client calls a monitor. Every call has a connection of its own, so calls neither
// wait for nor disturb each other. A monitor that cannot be reached, or dies during a
// call, is errdefs.ErrUnavailable. All methods are safe for concurrent use.
type Client struct {
	dial func(context.Context) (net.Conn, error)
	// dialSession is that of execs and attaches; nil for dial.
	dialSession func(context.Context) (net.Conn, error)
	// onInput is told before a client brings input to a container.
	onInput func(id string)
	buffers buffers // of Log
}

// NewClient returns a client that reaches its monitor through dial.
func NewClient(dial func(context.Context) (net.Conn, error)) *Client { return &Client{dial: dial} }

// NewClientWithSessions is NewClient with another dial function for execs and attaches, which
// there may be any number of at a time.
func NewClientWithSessions(dial, session func(context.Context) (net.Conn, error)) *Client {
	return &Client{dial: dial, dialSession: session}
}

// DialUnix returns a dial function for a monitor's socket.
func DialUnix(path string) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}
}

// DialPatiently is DialUnix for a monitor that somebody starts anew when it has died:
// while nobody answers it tries again, until patience is over. What was being made when
// the monitor died can so be taken back at once.
func DialPatiently(path string, patience time.Duration) func(context.Context) (net.Conn, error) {
	dial := DialUnix(path)
	return func(ctx context.Context) (net.Conn, error) {
		conn, err := dial(ctx)
		if err == nil {
			return conn, nil
		}
		over := time.NewTimer(patience)
		defer over.Stop()
		tick := time.NewTicker(10 * time.Millisecond) // a socket appears without notice
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-over.C:
				return nil, err
			case <-tick.C:
			}
			if conn, err = dial(ctx); err == nil {
				return conn, nil
			}
		}
	}
}

// Hello asks the monitor who it is.
func (c *Client) Hello(ctx context.Context) (info Info, err error) {
	return info, c.call(ctx, "hello", "", nil, &info)
}

// Create makes a container: its init process exists and waits for Start.
func (c *Client) Create(ctx context.Context, r CreateRequest) (made Created, err error) {
	return made, c.call(ctx, "create", r.ID, r, &made)
}

// Start lets a created container run and returns when it did.
func (c *Client) Start(ctx context.Context, id string) (time.Time, error) {
	var r startReply
	err := c.call(ctx, "start", id, nil, &r)
	return r.At, err
}

// Signal sends sig to init; SIGKILL ends every process of the container. An exited
// container is no error.
func (c *Client) Signal(ctx context.Context, id string, sig unix.Signal) error {
	return c.call(ctx, "signal", id, signalRequest{Signal: sig}, nil)
}

// State returns what is known now.
func (c *Client) State(ctx context.Context, id string) (st runtime.State, err error) {
	return st, c.call(ctx, "state", id, nil, &st)
}

// Wait blocks until the container has exited and all it wrote before is in its log.
func (c *Client) Wait(ctx context.Context, id string) (exit runtime.Exit, err error) {
	return exit, c.call(ctx, "wait", id, nil, &exit)
}

// ReopenLog opens the log's path anew.
func (c *Client) ReopenLog(ctx context.Context, id string) error {
	return c.call(ctx, "reopen", id, nil, nil)
}

// Update changes resource limits.
func (c *Client) Update(ctx context.Context, id string, r *specs.LinuxResources) error {
	return c.call(ctx, "update", id, r, nil)
}

// Delete kills and forgets a container; the bundle itself stays. It is idempotent.
func (c *Client) Delete(ctx context.Context, id string) error {
	return c.call(ctx, "delete", id, nil, nil)
}

// List returns all containers and holds in no particular order, without those that are
// still being made.
func (c *Client) List(ctx context.Context) (entries []Entry, err error) {
	return entries, c.call(ctx, "list", "", nil, &entries)
}

// Spawn starts a program on the host, in a session of its own, with files as its
// descriptors 3, 4 and so on; it needs a unix socket to pass them, and they stay the
// caller's. State, Signal, Wait and Delete take its id; SIGKILL and Delete end its
// descendants too. It goes on when the monitor is killed; an exit that happens while
// there is none is Unknown.
func (c *Client) Spawn(ctx context.Context, r SpawnRequest, files []*os.File) (made Created, err error) {
	body := spawnBody{SpawnRequest: r, Files: len(files)}
	if err := checkSpawn(body); err != nil {
		return Created{}, err
	}
	return made, c.retry(func() error {
		conn, err := c.open(ctx, "spawn", r.ID, body)
		if err != nil {
			return err
		}
		defer conn.Close()
		stop := context.AfterFunc(ctx, func() { giveUp(conn, "spawn") })
		defer stop()
		if len(files) > 0 {
			if err := sendFiles(conn, files); err != nil {
				return cut(err)
			}
		}
		err = readReply(conn, &made)
		if ctx.Err() != nil && err != nil {
			return ctx.Err()
		}
		return err
	})
}

// Mirror begins to bring the log of a container in a guest into a file of this machine,
// from its beginning; call it when the container has been created there. It goes on when
// the caller or the monitor dies: every line that the guest has arrives exactly once,
// unless the file cannot be written. ReopenLog and Delete take the container's id. The
// same request again is no error.
func (c *Client) Mirror(ctx context.Context, r MirrorRequest) error {
	return c.call(ctx, "mirror", r.ID, r, nil)
}

// FlushLog returns when a mirror is complete: the container has exited and its whole log
// is in the file. It is errdefs.ErrUnavailable if the rest cannot be had any more, its
// machine being gone. A guest can delay it as long as ctx lasts.
func (c *Client) FlushLog(ctx context.Context, id string) error {
	return c.call(ctx, "flush", id, nil, nil)
}

// Hold starts a process that keeps new namespaces alive and returns its id.
func (c *Client) Hold(ctx context.Context, r HoldRequest) (int, error) {
	var reply holdReply
	err := c.call(ctx, "hold", r.ID, r, &reply)
	return reply.Pid, err
}

// Release ends what Hold started. It is idempotent.
func (c *Client) Release(ctx context.Context, id string) error {
	return c.call(ctx, "release", id, nil, nil)
}

// Reexec asks the monitor to replace its program by the one on disk. It stays the same
// process with the same children; calls that only wait are cut off.
func (c *Client) Reexec(ctx context.Context) error {
	return c.call(ctx, "reexec", "", nil, nil)
}

// Exec runs one more process and blocks until it has ended and its output has been
// delivered. Ending ctx gives up the streams, not the process. A reader for standard
// input that blocks keeps its goroutine until it returns.
func (c *Client) Exec(ctx context.Context, id string, r ExecRequest, s runtime.Streams) (exit runtime.Exit, err error) {
	r.Stdin, r.Stdout, r.Stderr = s.Stdin != nil, s.Stdout != nil, s.Stderr != nil
	return exit, c.stream(ctx, "exec", id, r, s, &exit)
}

// Attach connects streams to init until it exits, ctx ends or, where there is only
// standard input, that reached its end.
func (c *Client) Attach(ctx context.Context, id string, s runtime.Streams) error {
	if s.Stdin != nil && c.onInput != nil {
		c.onInput(id)
	}
	r := attachRequest{Stdin: s.Stdin != nil, Stdout: s.Stdout != nil, Stderr: s.Stderr != nil}
	return c.stream(ctx, "attach", id, r, s, nil)
}

// dyingMonitors is how many monitors that end before they have read a call one call
// may meet.
const dyingMonitors = 3

// call makes a call without streams. A monitor that hangs up with the call unread, which
// is what a reset or a broken pipe says, has done nothing of it: the next one is asked.
func (c *Client) call(ctx context.Context, op, id string, body, reply any) error {
	return c.retry(func() error { return c.stream(ctx, op, id, body, runtime.Streams{}, reply) })
}

func (c *Client) retry(call func() error) error {
	for n := 1; ; n++ {
		err := call()
		if n == dyingMonitors || !errors.Is(err, unix.ECONNRESET) && !errors.Is(err, unix.EPIPE) {
			return err
		}
	}
}

// stream makes one call, with streams or without.
func (c *Client) stream(ctx context.Context, op, id string, body any, s runtime.Streams, reply any) error {
	conn, err := c.open(ctx, op, id, body)
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { giveUp(conn, op) })
	defer stop()
	var writing sync.Mutex
	if s.Stdin != nil {
		go sendInput(conn, &writing, s.Stdin)
	}
	if s.Resize != nil {
		done := make(chan struct{})
		defer close(done)
		go sendSizes(conn, &writing, s.Resize, done)
	}
	err = receive(conn, replyLimit(op), s, reply)
	if ctx.Err() != nil && err != nil {
		return ctx.Err()
	}
	return err
}

// settleTime bounds how long a call that makes something outlasts its context.
const settleTime = 2 * time.Second

// giveUp ends a call whose context has ended. One that makes something is answered first:
// a Delete that overtook it would find nothing, and the thing would be made after that.
func giveUp(conn net.Conn, op string) {
	switch op {
	case "create", "spawn", "hold":
		conn.SetDeadline(time.Now().Add(settleTime))
	default:
		conn.Close()
	}
}

func (c *Client) open(ctx context.Context, op, id string, body any) (net.Conn, error) {
	req := request{Version: Version, Oldest: Oldest, Op: op, ID: id}
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("encode request: %w", err)
		}
		req.Body = b
	}
	dial := c.dial
	if c.dialSession != nil && (op == "exec" || op == "attach") {
		dial = c.dialSession
	}
	conn, err := dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect to monitor: %w: %w", errdefs.ErrUnavailable, err)
	}
	if err := writeJSON(conn, frameHeader, req); err != nil {
		conn.Close()
		return nil, cut(err)
	}
	return conn, nil
}

// cut is the error of a connection that ended before its call was over.
func cut(err error) error {
	return fmt.Errorf("call monitor: %w: %w", errdefs.ErrUnavailable, err)
}

func sendSizes(conn net.Conn, writing *sync.Mutex, sizes <-chan runtime.Size, done <-chan struct{}) {
	for {
		select {
		case size, ok := <-sizes:
			if !ok {
				return
			}
			writing.Lock()
			err := writeJSON(conn, frameResize, size)
			writing.Unlock()
			if err != nil {
				return
			}
		case <-done:
			return
		}
	}
}

// replyLimit is how long the response to a call may be. Only a list grows with what there is.
func replyLimit(op string) uint32 {
	if op == "list" {
		return maxHeader
	}
	return maxReply
}

// receive takes output frames until the response comes, of at most limit bytes.
func receive(conn net.Conn, limit uint32, s runtime.Streams, reply any) error {
	var buf []byte
	if s.Stdout != nil || s.Stderr != nil {
		buf = make([]byte, maxData)
	}
	for {
		kind, payload, err := readFrameWithin(conn, buf, limit)
		if err != nil {
			return cut(err)
		}
		to := s.Stdout
		switch kind {
		case frameHeader:
			return decodeReply(payload, reply)
		case frameStderr:
			to = s.Stderr
		}
		if to == nil {
			continue
		}
		if _, err := to.Write(payload); err != nil {
			return fmt.Errorf("deliver output: %w", err)
		}
	}
}

func decodeReply(payload []byte, reply any) error {
	var r response
	if err := json.Unmarshal(payload, &r); err != nil {
		return fmt.Errorf("decode response: %w: %w", errdefs.ErrInternal, err)
	}
	if err := r.err(); err != nil {
		return err
	}
	if reply == nil || r.Body == nil {
		return nil
	}
	if err := json.Unmarshal(r.Body, reply); err != nil {
		return fmt.Errorf("decode response: %w: %w", errdefs.ErrInternal, err)
	}
	return nil
}
