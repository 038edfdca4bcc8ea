package monitor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime/mux"
)

// GuestService is the name by which a guest offers its own monitor on a channel.
const GuestService = "monitor"

// channel is the one connection to a guest that all its mirrors share.
type channel struct {
	socket string
	budget budget
	users  int // under the server's lock

	// turn has room for one: whoever connects. The others wait for that.
	turn    chan struct{}
	session *mux.Session
	tried   time.Time
	pause   time.Duration // since tried, before the next attempt
}

const (
	shortPause = 20 * time.Millisecond
	longPause  = 5 * time.Second
	// steadyTime is how long a session must last to be taken for a good one.
	steadyTime = 10 * time.Second
	// connectTime bounds a handshake: QEMU lets a second client wait without a word.
	connectTime = 10 * time.Second
)

// errGone: nobody listens any more, and nobody ever will again.
var errGone = fmt.Errorf("connect to guest: its machine is gone: %w", errdefs.ErrUnavailable)

// acquire returns the channel of a socket for one more user.
func (s *Server) acquire(socket string) *channel {
	s.mu.Lock()
	defer s.mu.Unlock()
	ch := s.channels[socket]
	if ch == nil {
		ch = &channel{socket: socket, turn: make(chan struct{}, 1), budget: budget{rate: defaultRate}}
		s.channels[socket] = ch
	}
	ch.users++
	return ch
}

func (s *Server) leave(ch *channel) {
	s.mu.Lock()
	ch.users--
	last := ch.users == 0
	if last {
		delete(s.channels, ch.socket)
	}
	s.mu.Unlock()
	if last && ch.session != nil { // nobody connects any more
		_ = ch.session.Close() // what it says is why it ended, and that was wanted
	}
}

// open opens a stream to the guest's monitor.
func (ch *channel) open(ctx context.Context) (net.Conn, error) {
	session, err := ch.connect(ctx)
	if err != nil {
		return nil, err
	}
	return session.Open(ctx, GuestService)
}

// connect returns the session, a new one if the last has ended.
func (ch *channel) connect(ctx context.Context) (*mux.Session, error) {
	select {
	case ch.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-ch.turn }()
	if ch.session != nil {
		select {
		case <-ch.session.Done():
		default:
			return ch.session, nil
		}
	}
	if err := ch.rest(ctx); err != nil {
		return nil, err
	}
	port, err := dialSocket(ctx, ch.socket)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	session, err := mux.Connect(ctx, port, mux.Options{})
	if err != nil {
		port.Close()
		return nil, fmt.Errorf("connect to guest: %w: %w", errdefs.ErrUnavailable, err)
	}
	ch.session = session
	return session, nil
}

// rest waits between attempts, the longer the less the sessions before have lasted.
func (ch *channel) rest(ctx context.Context) error {
	defer func() { ch.tried = time.Now() }()
	if ch.tried.IsZero() || time.Since(ch.tried) > steadyTime {
		ch.pause = 0
		return nil
	}
	ch.pause = min(max(2*ch.pause, shortPause), longPause)
	timer := time.NewTimer(time.Until(ch.tried.Add(ch.pause)))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// dialSocket connects to a unix socket, whose path may be longer than an address.
func dialSocket(ctx context.Context, path string) (net.Conn, error) {
	dir, err := os.Open(filepath.Dir(path))
	if err == nil {
		defer dir.Close()
		var d net.Dialer
		var conn net.Conn
		conn, err = d.DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path)))
		if err == nil {
			return conn, nil
		}
	}
	if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ENOENT) {
		return nil, errGone
	}
	return nil, fmt.Errorf("connect to guest: %w: %w", errdefs.ErrUnavailable, err)
}
