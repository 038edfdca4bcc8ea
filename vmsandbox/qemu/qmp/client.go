// Package qmp speaks QEMU's machine protocol for what govmm's client lacks: events,
// descriptors, and commands with arguments of any shape.
package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// MaxMessage bounds one message of QEMU, in bytes. Whoever got out of a guest into QEMU
// must not get the daemon's memory too.
const MaxMessage = 1 << 20

// Event is something that QEMU reports on its own.
type Event struct {
	Name string
	Data json.RawMessage
}

// Error is what QEMU answered to a command that it refused.
type Error struct {
	Command string
	Class   string `json:"class"`
	Desc    string `json:"desc"`
}

func (e *Error) Error() string { return e.Command + ": " + e.Desc }

// Client is a connection to one QMP socket. It is safe for concurrent use: commands are
// carried out in the order in which they were sent.
type Client struct {
	conn *net.UnixConn
	done chan struct{}

	write sync.Mutex // held while a command is sent

	mu       sync.Mutex
	err      error
	next     uint64
	answers  map[uint64]chan message
	watchers map[*Watch]bool
}

type message struct {
	QMP    json.RawMessage `json:"QMP"`
	Event  string          `json:"event"`
	Data   json.RawMessage `json:"data"`
	ID     uint64          `json:"id"`
	Return json.RawMessage `json:"return"`
	Error  *Error          `json:"error"`
}

// Dial connects, waits for QEMU to greet and enters command mode. QEMU serves one client
// at a time and lets others wait without a word, so ctx should have a deadline.
func Dial(ctx context.Context, path string) (*Client, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("connect to QMP: %w: %w", errdefs.ErrUnavailable, err)
	}
	c := &Client{
		conn: conn.(*net.UnixConn), done: make(chan struct{}),
		answers: map[uint64]chan message{}, watchers: map[*Watch]bool{},
	}
	greeting := make(chan struct{})
	go c.read(greeting)
	select {
	case <-greeting:
		err = c.Execute(ctx, "qmp_capabilities", nil, nil)
	case <-c.done:
		err = c.cause()
	case <-ctx.Done():
		err = fmt.Errorf("wait for QMP greeting: %w", ctx.Err())
	}
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

// Close ends the connection; QEMU goes on.
func (c *Client) Close() error {
	err := c.conn.Close()
	<-c.done
	return err
}

// Done is closed when the connection has ended.
func (c *Client) Done() <-chan struct{} { return c.done }

func (c *Client) cause() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// read is the connection's only reader; it ends with the connection.
func (c *Client) read(greeting chan struct{}) {
	lines := bufio.NewScanner(c.conn)
	lines.Buffer(nil, MaxMessage)
	err := error(nil)
	for err == nil && lines.Scan() {
		var m message
		if err = json.Unmarshal(lines.Bytes(), &m); err != nil {
			break
		}
		switch {
		case m.Event != "":
			c.publish(Event{Name: m.Event, Data: m.Data})
		case m.QMP != nil:
			if greeting != nil {
				close(greeting)
				greeting = nil
			}
		default:
			c.answer(m)
		}
	}
	if err == nil {
		if err = lines.Err(); err == nil {
			err = io.EOF
		}
	}
	_ = c.conn.Close()
	c.mu.Lock()
	c.err = fmt.Errorf("QMP connection ended: %w: %w", errdefs.ErrUnavailable, err)
	c.mu.Unlock()
	close(c.done)
}

func (c *Client) answer(m message) {
	c.mu.Lock()
	ch := c.answers[m.ID]
	delete(c.answers, m.ID)
	c.mu.Unlock()
	if ch != nil {
		ch <- m
	}
}

// Execute carries out a command. Arguments and result may be nil. Files are passed along
// with the command. A command that ctx ends may still be carried out.
func (c *Client) Execute(ctx context.Context, command string, arguments, result any, files ...*os.File) error {
	ch := make(chan message, 1)
	c.mu.Lock()
	c.next++
	id := c.next
	c.answers[id] = ch
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.answers, id)
		c.mu.Unlock()
	}()
	if err := c.send(ctx, id, command, arguments, files); err != nil {
		if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("send %s: %w", command, err)
		}
		return fmt.Errorf("send %s: %w: %w", command, errdefs.ErrUnavailable, err)
	}
	select {
	case m := <-ch:
		return m.result(command, result)
	case <-c.done:
	case <-ctx.Done():
		return fmt.Errorf("wait for answer to %s: %w", command, ctx.Err())
	}
	select {
	case m := <-ch: // QEMU answered before it went
		return m.result(command, result)
	default:
		return fmt.Errorf("%s: %w", command, c.cause())
	}
}

// result takes the answer to a command apart.
func (m message) result(command string, result any) error {
	if m.Error != nil {
		m.Error.Command = command
		return m.Error
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(m.Return, result); err != nil {
		return fmt.Errorf("read answer to %s: %w: %w", command, errdefs.ErrInternal, err)
	}
	return nil
}

func (c *Client) send(ctx context.Context, id uint64, command string, arguments any, files []*os.File) error {
	request := struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
		ID        uint64 `json:"id"`
	}{command, arguments, id}
	b, err := json.Marshal(request)
	if err != nil {
		return err
	}
	b = append(b, '\n')
	c.write.Lock()
	defer c.write.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	deadline, _ := ctx.Deadline()
	if err := c.conn.SetWriteDeadline(deadline); err != nil {
		return err
	}
	n, err := c.writeAll(b, files)
	if n > 0 && n < len(b) { // what follows would be taken for the rest
		_ = c.conn.Close()
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return context.DeadlineExceeded
	}
	return err
}

// writeAll passes the files with the first bytes that the kernel takes.
func (c *Client) writeAll(b []byte, files []*os.File) (int, error) {
	if len(files) == 0 {
		return c.conn.Write(b)
	}
	fds := make([]int, len(files))
	for i, f := range files {
		fds[i] = int(f.Fd())
	}
	n, _, err := c.conn.WriteMsgUnix(b, unix.UnixRights(fds...), nil)
	if err == nil && n < len(b) {
		var more int
		more, err = c.conn.Write(b[n:])
		n += more
	}
	return n, err
}

// watchBacklog is how many events a watch holds; more are lost.
const watchBacklog = 64

// Watch receives events. It is begun before the command whose events are awaited.
type Watch struct {
	c  *Client
	ch chan Event
}

// Watch begins to collect events.
func (c *Client) Watch() *Watch {
	w := &Watch{c: c, ch: make(chan Event, watchBacklog)}
	c.mu.Lock()
	c.watchers[w] = true
	c.mu.Unlock()
	return w
}

// Close ends the watch.
func (w *Watch) Close() {
	w.c.mu.Lock()
	delete(w.c.watchers, w)
	w.c.mu.Unlock()
}

// Next returns the next event.
func (w *Watch) Next(ctx context.Context) (Event, error) {
	select {
	case e := <-w.ch:
		return e, nil
	case <-w.c.done:
	case <-ctx.Done():
		return Event{}, fmt.Errorf("wait for an event of QEMU: %w", ctx.Err())
	}
	select {
	case e := <-w.ch: // QEMU reported it before it went
		return e, nil
	default:
		return Event{}, w.c.cause()
	}
}

func (c *Client) publish(e Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for w := range c.watchers {
		select {
		case w.ch <- e:
		default: // nobody reads this one
		}
	}
}
