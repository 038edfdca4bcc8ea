package monitor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
)

// Keeper holds, in another process than the monitor, a second copy of everything that
// would be lost with it: pidfds (through which the kernel tells exit codes later),
// terminals, standard inputs that must not end, and unread output. It does nothing but
// hold them until Restore hands them to a new monitor. All methods are safe for
// concurrent use.
type Keeper struct {
	client *Client
	mu     sync.Mutex
	kept   map[string]*duplicates
}

// duplicates are plain descriptors: nothing waits on them.
type duplicates struct {
	names   []string
	fds     []int
	outputs []int
}

func (d *duplicates) close() {
	closeFDs(d.fds)
	closeFDs(d.outputs)
}

// NewKeeper returns a Keeper for the containers of c's monitor. Attach with input must
// go through the same client from now on, and nothing may be called on it before.
func NewKeeper(c *Client) *Keeper {
	k := &Keeper{client: c, kept: make(map[string]*duplicates)}
	c.onInput = k.dropInput
	return k
}

// Keep duplicates a container's descriptors; call it after Create. Again is no error.
func (k *Keeper) Keep(ctx context.Context, id string) error {
	k.mu.Lock()
	_, have := k.kept[id]
	k.mu.Unlock()
	if have {
		return nil
	}
	d, err := k.fetch(ctx, id)
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, have := k.kept[id]; have {
		d.close()
		return nil
	}
	k.kept[id] = d
	return nil
}

// Forget closes the duplicates of a container that was deleted.
func (k *Keeper) Forget(id string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if d, ok := k.kept[id]; ok {
		d.close()
		delete(k.kept, id)
	}
}

// Close closes all duplicates.
func (k *Keeper) Close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, d := range k.kept {
		d.close()
	}
	k.kept = make(map[string]*duplicates)
}

// Restore hands everything to a monitor that may be new, and keeps the containers that
// are not kept yet. Call it after the daemon or the monitor has started. Containers
// that the monitor no longer has are forgotten.
func (k *Keeper) Restore(ctx context.Context) error {
	// What is kept from now on is newer than the list that follows.
	k.mu.Lock()
	kept := slices.Collect(maps.Keys(k.kept))
	k.mu.Unlock()
	entries, err := k.client.List(ctx)
	if err != nil {
		return fmt.Errorf("restore monitor: %w", err)
	}
	known := make(map[string]bool)
	var errs []error
	for _, e := range entries {
		if e.Kind != "" {
			continue // not a container: it has nothing to keep
		}
		known[e.ID] = true
		if err := k.give(ctx, e.ID); err != nil {
			errs = append(errs, fmt.Errorf("restore %s: %w", e.ID, err))
		}
		if e.State.Phase == runtime.Exited {
			continue
		}
		if err := k.Keep(ctx, e.ID); err != nil && !errors.Is(err, errdefs.ErrNotFound) {
			errs = append(errs, fmt.Errorf("keep %s: %w", e.ID, err))
		}
	}
	for _, id := range kept {
		if !known[id] {
			k.Forget(id)
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	// From now on nobody is waited for. Monitors that do not know the call wait in vain.
	if err := k.client.call(ctx, "restored", "", nil, nil); err != nil && !errdefs.IsInvalidArgument(err) && !errdefs.IsNotImplemented(err) {
		return fmt.Errorf("restore monitor: %w", err)
	}
	return nil
}

// dropInput lets the end of input reach a container: a duplicate would prevent it.
func (k *Keeper) dropInput(id string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	d, ok := k.kept[id]
	if !ok {
		return
	}
	if i := slices.Index(d.names, fdInput); i >= 0 {
		unix.Close(d.fds[i])
		d.names, d.fds = slices.Delete(d.names, i, i+1), slices.Delete(d.fds, i, i+1)
	}
}

// fetch asks the monitor for duplicates.
func (k *Keeper) fetch(ctx context.Context, id string) (*duplicates, error) {
	conn, err := k.client.open(ctx, "keep", id, nil)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, fmt.Errorf("keep descriptors over %T: %w", conn, errdefs.ErrNotImplemented)
	}
	first := make([]byte, 1)
	fds, n, err := receiveFDs(u, first, maxFDs)
	if err != nil || n == 0 {
		return nil, fmt.Errorf("keep descriptors: %w", errors.Join(errdefs.ErrUnavailable, err))
	}
	unblock(fds)
	d := &duplicates{fds: fds}
	var rest io.Reader = u
	if first[0] != fdsFollow { // no descriptors: this was the reply's first byte
		rest = io.MultiReader(&oneByte{b: first[0]}, u)
	}
	var reply keepReply
	if err := readReply(rest, &reply); err != nil {
		d.close()
		return nil, err
	}
	if d.names = reply.FDs; len(d.names) != len(d.fds) {
		d.close()
		return nil, fmt.Errorf("keep descriptors: got %d instead of %d: %w", len(d.fds), len(d.names), errdefs.ErrInternal)
	}
	for _, name := range reply.Outputs {
		path := filepath.Join(reply.Bundle, name)
		if fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0); err == nil {
			d.outputs = append(d.outputs, fd)
		}
	}
	return d, nil
}

// give hands a container's duplicates to the monitor.
func (k *Keeper) give(ctx context.Context, id string) error {
	k.mu.Lock()
	d, ok := k.kept[id]
	var copies []int
	var names []string
	if ok {
		for i, fd := range d.fds { // copies, so that Forget may close meanwhile
			if dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0); err == nil {
				copies, names = append(copies, dup), append(names, d.names[i])
			}
		}
	}
	k.mu.Unlock()
	if len(copies) == 0 {
		return nil
	}
	defer closeFDs(copies)
	conn, err := k.client.open(ctx, "adopt", id, adoptRequest{FDs: names})
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if err := sendFDs(conn, copies); err != nil {
		return err
	}
	return readReply(conn, nil)
}

func readReply(r io.Reader, reply any) error {
	kind, payload, err := readFrameWithin(r, nil, maxReply)
	if err != nil || kind != frameHeader {
		return fmt.Errorf("read response: %w", errors.Join(errdefs.ErrUnavailable, err))
	}
	return decodeReply(payload, reply)
}

type oneByte struct {
	b    byte
	done bool
}

func (o *oneByte) Read(p []byte) (int, error) {
	if o.done || len(p) == 0 {
		return 0, io.EOF
	}
	p[0], o.done = o.b, true
	return 1, nil
}
