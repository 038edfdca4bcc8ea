package mux

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cricket-cri/cricket/runtime/wirekind"
)

const (
	// maxStale bounds what a new host drops before the guest answers: what can be under
	// way is a fraction of that.
	maxStale = 4 << 20
	// farewell is how long Close waits for the port to take the last frame.
	farewell = 100 * time.Millisecond
)

// Session is the host's side of a channel. It is safe for concurrent use.
type Session struct {
	s     *session
	guest byte // the guest's version
	port  io.Closer
	wrote chan struct{} // closed when nothing is being written any more
	ended sync.WaitGroup
}

// Connect greets the guest on a port and takes over from whatever host was there
// before. ctx bounds the greeting only, and should have a deadline: QEMU leaves a second
// client of a port hanging without a word. The port is the session's from now on; it is
// closed if Connect fails.
func Connect(ctx context.Context, port io.ReadWriteCloser, o Options) (*Session, error) {
	d := newDecoder(port, false)
	stop := context.AfterFunc(ctx, func() { port.Close() })
	guest, err := greet(port, d)
	if !stop() {
		err = ctx.Err()
	}
	if err != nil {
		port.Close()
		return nil, fmt.Errorf("greet guest: %w: %w", errdefs.ErrUnavailable, err)
	}
	l := newLink(port)
	s := &Session{s: newSession(l, o.withDefaults(), true), guest: guest, port: port, wrote: make(chan struct{})}
	s.ended.Go(func() { s.end(s.read(d)) })
	s.ended.Go(func() {
		defer close(s.wrote)
		if err := l.write(); err != nil {
			s.end(err)
		}
	})
	return s, nil
}

// greet returns the guest's version.
func greet(port io.ReadWriter, d *decoder) (byte, error) {
	nonce := make([]byte, nonceSize)
	if _, err := rand.Read(nonce); err != nil {
		return 0, err
	}
	if _, err := port.Write(appendHello(make([]byte, maxFrame), nonce)); err != nil {
		return 0, err
	}
	echo := append(helloStart(), nonce...)
	if err := d.skipTo(echo, maxStale); err != nil {
		return 0, err
	}
	f, err := d.next()
	if err != nil {
		return 0, err
	}
	v := f.payload[helloSize-1]
	if f.kind != kindHello || v < 1 || !bytes.HasSuffix(f.payload[:helloSize-1], nonce) {
		return 0, fmt.Errorf("guest speaks version %d: %w", v, errBad)
	}
	return v, nil
}

// read takes frames until the session ends, and says why.
func (s *Session) read(d *decoder) error {
	for {
		f, err := d.next()
		if err == nil {
			switch f.kind {
			case kindHello:
				err = fmt.Errorf("unasked greeting: %w", errBad)
			case kindBye:
				err = fmt.Errorf("guest hung up: %s", wirekind.Clean(string(f.payload), maxText))
			case kindPong:
				err = s.s.ponged()
			default:
				err = s.s.handle(&f, d)
			}
		}
		if err != nil {
			return err
		}
	}
}

// end ends the session for a reason of the channel.
func (s *Session) end(cause error) {
	l := s.s.link
	l.mu.Lock()
	if s.s.err == nil && (errors.Is(cause, errBad) || errors.Is(cause, errTorn)) {
		s.s.opt.Log.Warn("guest breaks the protocol of its channel", "error", cause)
	}
	s.s.fail(cause)
	l.close()
	l.mu.Unlock()
	s.port.Close()
}

// Open asks the guest for a service, named by at most 64 printable bytes, and waits for
// the answer. A service that the guest refuses is errdefs.ErrUnavailable. The connection
// has the methods CloseWrite, HungUp and AwaitHangUp besides those of net.Conn.
func (s *Session) Open(ctx context.Context, service string) (net.Conn, error) {
	return s.await(ctx, service, 0)
}

// OpenSpare is Open for what may be asked for any number of times, and kept for any time:
// an eighth of the streams it leaves to the others. What finds no stream is
// errdefs.ErrResourceExhausted.
func (s *Session) OpenSpare(ctx context.Context, service string) (net.Conn, error) {
	return s.await(ctx, service, s.s.opt.MaxStreams/8)
}

func (s *Session) await(ctx context.Context, service string, spare int) (net.Conn, error) {
	st, err := s.s.open(service, spare)
	if err != nil {
		return nil, err
	}
	if err := st.await(ctx); err != nil {
		return nil, err
	}
	return st, nil
}

// Begin is Open without waiting: what is written goes out at once, and that the guest
// has refused shows with the first read.
func (s *Session) Begin(ctx context.Context, service string) (net.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	st, err := s.s.open(service, 0)
	if err != nil {
		return nil, err
	}
	return st, nil
}

// Ping asks the guest for a sign of life and waits for it. It costs the guest a fraction
// of what a stream does. A guest that does not know pings is errdefs.ErrNotImplemented.
func (s *Session) Ping(ctx context.Context) error {
	if s.guest < pingVersion {
		return fmt.Errorf("ping guest of version %d: %w", s.guest, errdefs.ErrNotImplemented)
	}
	pong, err := s.s.ping()
	if err != nil {
		return fmt.Errorf("ping guest: %w", err)
	}
	select {
	case <-pong:
		return nil
	case <-s.Done():
		return fmt.Errorf("ping guest: %w", s.Err())
	case <-ctx.Done():
		return fmt.Errorf("ping guest: %w", ctx.Err())
	}
}

// Done is closed when the session has ended.
func (s *Session) Done() <-chan struct{} { return s.s.done }

// Err says why the session has ended, as an *Error: net.ErrClosed after Close. It is
// nil as long as the session goes on.
func (s *Session) Err() error {
	s.s.link.mu.Lock()
	defer s.s.link.mu.Unlock()
	return s.s.err
}

// Close ends the session with all its streams, and closes the port. It is idempotent.
func (s *Session) Close() error {
	l := s.s.link
	l.mu.Lock()
	if s.s.err == nil {
		l.urgent = appendText(l.urgent, kindBye, 0, "closed")
		s.s.fail(net.ErrClosed)
		l.close()
	}
	l.mu.Unlock()
	late := time.NewTimer(farewell)
	defer late.Stop()
	select {
	case <-s.wrote:
	case <-late.C:
	}
	err := s.port.Close()
	s.ended.Wait()
	if errors.Is(err, net.ErrClosed) {
		err = nil
	}
	return err
}
