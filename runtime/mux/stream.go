package mux

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime/wirekind"
)

// linger is how long a closed stream may take to deliver what it was given.
const linger = 5 * time.Second

// errRefused is why a stream is refused that was closed before it was used.
const errRefused = "refused"

// stream is a net.Conn. The link's lock guards all of it.
type stream struct {
	s       *session
	id      uint32
	service string
	changed sync.Cond

	// Opening. A stream is answered by its first use or by its end.
	opening  bool   // the open frame is to be sent
	answer   bool   // the accept frame is to be sent
	answered bool   // one of them has been sent or received
	refusal  string // the refuse frame is to be sent, on behalf of a stream that is closed
	refused  error

	// Receiving.
	in       queue
	window   int // what the other side may still send
	granted  int // the window when nothing is under way
	consumed int // to be granted anew
	grant    bool
	inEnd    bool // nothing more comes

	// Sending.
	out      outbox
	credit   int // what may still be sent
	limit    int // the credit when nothing is under way
	eof      bool
	eofSent  bool
	closed   bool // by this side
	gone     bool // the final frame has been sent
	peerGone bool // the final frame was received
	queued   bool
	lingerer *time.Timer

	readBy, writeBy deadline
}

func newStream(s *session, id uint32, service string, window int) *stream {
	st := &stream{
		s: s, id: id, service: service, window: window, granted: window,
		credit: baseWindow, limit: baseWindow,
	}
	st.changed.L = &s.link.mu
	st.in.pool = &s.pool
	return st
}

// emit appends the next frames of the stream to b and tells whether there are more.
func (st *stream) emit(b []byte) (_ []byte, more bool) {
	if st.gone || st.s.err != nil {
		return b, false
	}
	defer st.changed.Broadcast()
	if st.refusal != "" {
		st.finish()
		return appendText(b, kindRefuse, st.id, st.refusal), false
	}
	if st.opening {
		st.opening = false
		b = appendNumber(b, kindOpen, st.id, st.granted, st.service)
	}
	if st.answer {
		st.answer = false
		b = appendNumber(b, kindAccept, st.id, st.granted, "")
	}
	if st.grant {
		st.grant = false
		st.window += st.consumed
		b = appendNumber(b, kindWindow, st.id, st.consumed, "")
		st.consumed = 0
	}
	if n := min(st.out.size(), st.credit, maxPayload); n > 0 {
		b = appendFrame(b, kindData, st.id, st.out.take(n)...)
		st.credit -= n
	}
	if st.out.size() > 0 {
		return b, st.credit > 0
	}
	if st.closed {
		st.finish()
		return appendFrame(b, kindClose, st.id), false
	}
	if st.eof && !st.eofSent {
		st.eofSent = true
		b = appendFrame(b, kindEOF, st.id)
	}
	return b, false
}

// finish lets go of the stream: this side has said all.
func (st *stream) finish() {
	st.gone = true
	if st.lingerer != nil {
		st.lingerer.Stop()
	}
	st.s.forget(st)
}

// use answers the opening of a stream with its first use.
func (st *stream) use() {
	if st.answered || st.s.host {
		return
	}
	st.answered, st.answer = true, true
	st.s.link.add(st)
}

// Read implements net.Conn.
func (st *stream) Read(p []byte) (int, error) {
	st.s.link.mu.Lock()
	defer st.s.link.mu.Unlock()
	for {
		if st.closed {
			return 0, st.fail("read", net.ErrClosed)
		}
		st.use()
		if n := st.in.read(p); n > 0 || len(p) == 0 {
			st.consume(n)
			return n, nil
		}
		switch {
		case st.refused != nil:
			return 0, st.fail("read", st.refused)
		case st.inEnd:
			return 0, io.EOF
		case st.s.err != nil:
			return 0, st.fail("read", st.s.err)
		case st.readBy.over():
			return 0, st.fail("read", os.ErrDeadlineExceeded)
		}
		st.changed.Wait()
	}
}

// consume grants what was read anew, half a window at a time.
func (st *stream) consume(n int) {
	st.consumed += n
	if st.consumed >= st.granted/2 && !st.inEnd && st.s.err == nil {
		st.grant = true
		st.s.link.add(st)
	}
}

// Write implements net.Conn. It returns when everything is about to be sent.
func (st *stream) Write(p []byte) (n int, err error) {
	st.s.link.mu.Lock()
	defer st.s.link.mu.Unlock()
	for {
		switch {
		case st.closed:
			return n, st.fail("write", net.ErrClosed)
		case st.refused != nil:
			return n, st.fail("write", st.refused)
		case st.eof || st.peerGone:
			return n, st.fail("write", unix.EPIPE)
		case st.s.err != nil:
			return n, st.fail("write", st.s.err)
		case st.writeBy.over():
			return n, st.fail("write", os.ErrDeadlineExceeded)
		}
		st.use()
		if m := st.out.add(p[n:]); m > 0 {
			n += m
			if st.credit > 0 {
				st.s.link.add(st)
			}
		}
		if n == len(p) {
			return n, nil
		}
		st.changed.Wait()
	}
}

func (st *stream) fail(op string, err error) error {
	return &net.OpError{Op: op, Net: "mux", Addr: st.RemoteAddr(), Err: err}
}

// CloseWrite tells the other side that nothing more comes.
func (st *stream) CloseWrite() error {
	st.s.link.mu.Lock()
	defer st.s.link.mu.Unlock()
	if st.closed {
		return st.fail("close", net.ErrClosed)
	}
	st.use()
	if !st.eof {
		st.eof = true
		st.s.link.add(st)
		st.changed.Broadcast()
	}
	return nil
}

// Close implements net.Conn. What was written is still delivered if the other side
// takes it within 5 seconds; what was received is dropped. A stream that the guest
// closes without having used it is refused.
func (st *stream) Close() error {
	st.s.link.mu.Lock()
	defer st.s.link.mu.Unlock()
	if st.closed {
		return st.fail("close", net.ErrClosed)
	}
	st.shut(errRefused)
	return nil
}

func (st *stream) shut(refusal string) {
	st.closed = true
	st.in.drop()
	if st.gone {
		st.s.hold(st, 0)
	}
	st.readBy.stop()
	st.writeBy.stop()
	st.changed.Broadcast()
	if st.gone || st.s.err != nil {
		return
	}
	if !st.answered && !st.s.host {
		st.answered, st.refusal = true, refusal
	}
	if st.peerGone {
		st.out.drop()
	}
	st.s.link.add(st)
	if st.out.size() > 0 {
		st.lingerer = time.AfterFunc(linger, st.giveUp)
	}
}

// giveUp ends a closed stream that nobody reads.
func (st *stream) giveUp() {
	st.s.link.mu.Lock()
	defer st.s.link.mu.Unlock()
	st.out.drop()
	if !st.gone && st.s.err == nil {
		st.s.link.add(st)
	}
}

// HungUp tells whether nobody is at the other end any more, without reading what is still to
// be read.
func (st *stream) HungUp() bool {
	st.s.link.mu.Lock()
	defer st.s.link.mu.Unlock()
	return st.hungUp()
}

func (st *stream) hungUp() bool { return st.peerGone || st.closed || st.s.err != nil }

// AwaitHangUp returns when nobody is at the other end any more, or this one is closed.
func (st *stream) AwaitHangUp() {
	st.s.link.mu.Lock()
	defer st.s.link.mu.Unlock()
	for !st.hungUp() {
		st.changed.Wait()
	}
}

// Refuse closes a stream that was handed to accept and not used yet, and says why to
// who asked for it: at most 256 bytes. A stream that has been used is closed.
func Refuse(c net.Conn, why error) {
	st, ok := c.(*stream)
	if !ok {
		c.Close()
		return
	}
	st.s.link.mu.Lock()
	defer st.s.link.mu.Unlock()
	if text := why.Error(); !st.closed {
		st.shut(text[:min(len(text), maxText)])
	}
}

// deliver takes data; the caller has checked the window.
func (st *stream) deliver(f *frame, d *decoder) {
	st.window -= len(f.payload)
	if !st.closed {
		d.buf = st.in.write(f.payload, d.buf)
		st.changed.Broadcast()
	}
}

// hangUp takes the other side's final frame. Whoever serves a host that has gone may take
// any time to notice, as a process does that runs on: the guest has done with the stream at
// once, or those that were abandoned would be all it may have.
func (st *stream) hangUp(refused error) {
	st.inEnd, st.peerGone, st.refused = true, true, refused
	st.out.drop()
	if refused != nil || st.closed || !st.s.host {
		st.closeUnused()
	}
	st.changed.Broadcast()
}

// closeUnused sends the final frame of a stream that has no use any more, whether or
// not its user has closed it.
func (st *stream) closeUnused() {
	if !st.gone {
		st.finish()
		st.s.link.urgent = appendFrame(st.s.link.urgent, kindClose, st.id)
		st.s.link.work.Signal()
	}
}

func refusalError(text []byte) error {
	return fmt.Errorf("%w: %w", errdefs.ErrUnavailable, errors.New(wirekind.Clean(string(text), maxText)))
}

// LocalAddr implements net.Conn.
func (st *stream) LocalAddr() net.Addr { return addr(st.service) }

// RemoteAddr implements net.Conn.
func (st *stream) RemoteAddr() net.Addr { return addr(st.service) }

// addr is the name of a service.
type addr string

// Network implements net.Addr.
func (a addr) Network() string { return "mux" }

// String implements net.Addr.
func (a addr) String() string { return string(a) }
