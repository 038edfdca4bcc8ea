package stream

import (
	"context"
	"errors"
	"net"
	"sync"
)

// Once a connection is upgraded, net/http no longer notices that its client leaves, and
// a session in which nothing is written would never end. Every connection is therefore
// watched: when reading from it fails, the context of its requests ends.

// watchListener accepts watched connections.
type watchListener struct{ net.Listener }

func (l watchListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &watchedConn{Conn: c}, nil
}

// watchedConn calls gone once when its peer has left or it was closed.
type watchedConn struct {
	net.Conn
	once sync.Once
	mu   sync.Mutex
	gone context.CancelFunc
}

func (c *watchedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	var t net.Error
	if timeout := errors.As(err, &t) && t.Timeout(); err != nil && !timeout {
		c.leave()
	}
	return n, err
}

func (c *watchedConn) Close() error {
	c.leave()
	return c.Conn.Close()
}

func (c *watchedConn) leave() {
	c.mu.Lock()
	gone := c.gone
	c.mu.Unlock()
	if gone != nil {
		c.once.Do(gone)
	}
}

// connContext gives a connection's requests a context that ends with it.
func connContext(ctx context.Context, c net.Conn) context.Context {
	w, ok := c.(*watchedConn)
	if !ok {
		return ctx
	}
	ctx, cancel := context.WithCancel(ctx)
	w.mu.Lock()
	w.gone = cancel
	w.mu.Unlock()
	return ctx
}

// sessionAddr is the address of a client with the context of its session. Of its own the
// library tells nobody who forwards a port that its connection has closed, but its streams
// have the address of the connection that they belong to.
type sessionAddr struct {
	net.Addr
	session context.Context
}

// sessionOf returns the context of a stream's session, or ctx for a stream that has none.
func sessionOf(ctx context.Context, stream any) context.Context {
	if s, ok := stream.(interface{ RemoteAddr() net.Addr }); ok {
		if a, ok := s.RemoteAddr().(sessionAddr); ok {
			return a.session
		}
	}
	return ctx
}
