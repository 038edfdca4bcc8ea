package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cricket-cri/cricket/runtime"
)

// Client calls the process 1 of a guest. Every call has a stream of its own, so calls
// do not wait for each other. A guest that cannot be reached, or goes during a call, is
// errdefs.ErrUnavailable; one that answers what it must not, errdefs.ErrInternal. All
// methods are safe for concurrent use.
type Client struct {
	open func(ctx context.Context, service string) (net.Conn, error)
}

// NewClient returns a client for the guest that open reaches: Open or, a round trip
// faster, Begin of a mux.Session.
func NewClient(open func(ctx context.Context, service string) (net.Conn, error)) *Client {
	return &Client{open: open}
}

var _ Guest = (*Client)(nil)

// Operations.
const (
	opHello     = "hello"
	opIdentify  = "identify"
	opStep      = "step"
	opConnect   = "connect"
	opSysctl    = "sysctl"
	opMount     = "mount"
	opUnmount   = "unmount"
	opPut       = "put"
	opGet       = "get"
	opRemove    = "remove"
	opProcesses = "processes"
	opStat      = "stat"
	opLimit     = "limit"
	opOnline    = "online"
	opSync      = "sync"
	opFreeze    = "freeze"
	opThaw      = "thaw"
)

// Hello implements Guest.
func (c *Client) Hello(ctx context.Context) (Info, error) {
	return ask(ctx, c, opHello, nil, maxAnswer, func(b, _ []byte) (Info, error) { return decodeInfo(b) })
}

// Identify implements Guest. If UnixNanos is 0, it is filled in as late as possible.
func (c *Client) Identify(ctx context.Context, id Identity) error {
	if id.UnixNanos == 0 {
		id.UnixNanos = time.Now().UnixNano()
	}
	return c.tell(ctx, opIdentify, id)
}

// Step implements Guest.
func (c *Client) Step(ctx context.Context, by time.Duration) (int64, error) {
	return ask(ctx, c, opStep, step(by), maxSmall, func(b, _ []byte) (nanos int64, err error) {
		err = json.Unmarshal(b, &nanos)
		return nanos, err
	})
}

// Connect implements Guest.
func (c *Client) Connect(ctx context.Context, n Network) error { return c.tell(ctx, opConnect, n) }

// Sysctl implements Guest.
func (c *Client) Sysctl(ctx context.Context, values map[string]string) error {
	return c.tell(ctx, opSysctl, sysctls(values))
}

// Mount implements Guest.
func (c *Client) Mount(ctx context.Context, m Mount) error { return c.tell(ctx, opMount, m) }

// Unmount implements Guest.
func (c *Client) Unmount(ctx context.Context, target string) error {
	return c.tell(ctx, opUnmount, place(target))
}

const (
	putBytes = 8 << 20 // of paths and contents in one request
	putFiles = 4096
)

// Put implements Guest. Many files take several requests; a file of more than 15 MiB is
// errdefs.ErrResourceExhausted.
func (c *Client) Put(ctx context.Context, files []File) error {
	for len(files) > 0 {
		n, bytes := 0, 0
		for n < len(files) && n < putFiles && (n == 0 || bytes+len(files[n].Content) <= putBytes) {
			bytes += len(files[n].Content) + len(files[n].Path)
			n++
		}
		if err := c.tell(ctx, opPut, fileList(files[:n])); err != nil {
			return err
		}
		files = files[n:]
	}
	return nil
}

// Get implements Guest.
func (c *Client) Get(ctx context.Context, path string) (File, error) {
	return ask(ctx, c, opGet, source(path), maxContent+maxSmall, func(b, content []byte) (File, error) {
		return decodeFile(b, content, path)
	})
}

// Remove implements Guest.
func (c *Client) Remove(ctx context.Context, paths []string) error {
	return c.tell(ctx, opRemove, trees(paths))
}

// Stat implements Guest.
func (c *Client) Stat(ctx context.Context) (Stat, error) {
	return ask(ctx, c, opStat, nil, maxAnswer, func(b, _ []byte) (Stat, error) { return decodeStat(b) })
}

// Processes implements Guest.
func (c *Client) Processes(ctx context.Context) (map[string]runtime.ProcessStat, error) {
	return ask(ctx, c, opProcesses, nil, maxAnswer, func(b, _ []byte) (map[string]runtime.ProcessStat, error) {
		return decodeMap(b, maxContainers, func(*runtime.ProcessStat) {})
	})
}

// Limit implements Guest.
func (c *Client) Limit(ctx context.Context, r *specs.LinuxResources) error {
	if r == nil {
		r = &specs.LinuxResources{}
	}
	return c.tell(ctx, opLimit, limits(*r))
}

// Online implements Guest.
func (c *Client) Online(ctx context.Context, added int64) error {
	return c.tell(ctx, opOnline, onlineRequest{Added: added})
}

// Sync implements Guest.
func (c *Client) Sync(ctx context.Context, drop bool) error {
	return c.tell(ctx, opSync, syncRequest{Drop: drop})
}

// Freeze implements Guest.
func (c *Client) Freeze(ctx context.Context, containers []string) (map[string]int64, error) {
	return ask(ctx, c, opFreeze, names(containers), maxAnswer, func(b, _ []byte) (map[string]int64, error) {
		return decodeMap(b, maxContainers, func(n *int64) { *n = max(*n, 0) })
	})
}

// Thaw implements Guest.
func (c *Client) Thaw(ctx context.Context, containers []string) error {
	return c.tell(ctx, opThaw, names(containers))
}

// body is what goes into a request. Both sides check it.
type body interface{ check() error }

// tell makes a call that answers nothing.
func (c *Client) tell(ctx context.Context, op string, b body) error {
	_, _, err := c.call(ctx, op, b, maxSmall)
	return err
}

// ask makes a call whose answer has at most limit bytes.
func ask[T any](ctx context.Context, c *Client, op string, b body, limit int, decode func(text, content []byte) (T, error)) (T, error) {
	var none T
	text, content, err := c.call(ctx, op, b, limit)
	if err != nil {
		return none, err
	}
	v, err := decode(text, content)
	if err != nil {
		return none, fmt.Errorf("decode guest's answer to %s: %w: %w", op, errdefs.ErrInternal, err)
	}
	return v, nil
}

func (c *Client) call(ctx context.Context, op string, b body, limit int) (text, content []byte, err error) {
	if b != nil {
		if err := b.check(); err != nil {
			return nil, nil, err
		}
	}
	by, limited := ctx.Deadline()
	req := request{Version: Version, Op: op}
	if limited {
		if req.Timeout = time.Until(by); req.Timeout <= 0 {
			return nil, nil, context.DeadlineExceeded
		}
	}
	conn, err := c.open(ctx, ServiceGuest)
	if err != nil {
		if ctx.Err() != nil {
			return nil, nil, ctx.Err()
		}
		return nil, nil, fmt.Errorf("call guest: %w: %w", errdefs.ErrUnavailable, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	text, content, err = exchange(conn, req, b, limit)
	if err != nil && ctx.Err() != nil {
		return nil, nil, ctx.Err()
	}
	return text, content, err
}

func exchange(conn net.Conn, req request, b body, limit int) (text, content []byte, err error) {
	if err := send(conn, req, b); err != nil {
		return nil, nil, err
	}
	text, content, err = readMessage(conn, limit)
	if err != nil {
		return nil, nil, fmt.Errorf("call guest: %w: %w", errdefs.ErrUnavailable, err)
	}
	var a answer
	if err := json.Unmarshal(text, &a); err != nil {
		return nil, nil, fmt.Errorf("decode guest's answer: %w: %w", errdefs.ErrInternal, err)
	}
	return a.Body, content, a.err()
}

func send(conn net.Conn, req request, b body) (err error) {
	var v any = b
	var content []byte
	if files, ok := b.(fileList); ok {
		v, content = packFiles(files)
	}
	if b != nil {
		if req.Body, err = json.Marshal(v); err != nil {
			return fmt.Errorf("encode request: %w", err)
		}
	}
	err = writeMessage(conn, req, content, maxRequest)
	if err != nil && !errdefs.IsResourceExhausted(err) {
		err = fmt.Errorf("%w: %w", errdefs.ErrUnavailable, err)
	}
	if err != nil {
		return fmt.Errorf("call guest: %w", err)
	}
	return nil
}
