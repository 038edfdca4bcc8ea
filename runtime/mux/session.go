package mux

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
)

// session is what one host and the guest have open with each other. The link's lock
// guards all of it.
type session struct {
	link    *link
	opt     Options
	host    bool
	streams map[uint32]*stream
	// late holds streams that this side has finished with and the other has not: what
	// may still come for them.
	late    map[uint32]late
	last    uint32 // the latest stream's number
	granted int    // windows of all streams together
	pool    pool
	err     error
	done    chan struct{}
	accept  func(st *stream) // guest only
	pong    chan struct{}    // host only; closed when the ping under way is answered; nil without one
}

// late is what the other side may still send for a stream.
type late struct {
	bytes   int // of data
	windows int // bytes that it may say it consumed
	eof     bool
	answer  bool
}

// maxLate is far more than an honest guest, which has as many streams as its options
// say, leaves unfinished.
const maxLate = 4096

func newSession(l *link, o Options, host bool) *session {
	return &session{
		link: l, opt: o, host: host, done: make(chan struct{}),
		streams: map[uint32]*stream{}, late: map[uint32]late{},
	}
}

// window is how much the next stream may have in flight.
func (s *session) window() int {
	return min(s.opt.Window, max(s.opt.Budget-s.granted, baseWindow))
}

func (s *session) enter(id uint32, service string) *stream {
	st := newStream(s, id, service, s.window())
	s.granted += st.granted
	s.streams[id] = st
	s.last = id
	return st
}

func (s *session) forget(st *stream) {
	delete(s.streams, st.id)
	s.hold(st, st.in.size()) // which is to be read yet, if its user has not closed it
	if !st.peerGone {
		s.late[st.id] = late{
			bytes: st.window, windows: st.limit - st.credit,
			eof: !st.inEnd, answer: s.host && !st.answered,
		}
	}
}

// hold changes how much of the budget a stream takes.
func (s *session) hold(st *stream, bytes int) {
	s.granted += bytes - st.granted
	st.granted = bytes
}

// fail ends the session. The first cause counts.
func (s *session) fail(cause error) {
	if s.err != nil {
		return
	}
	s.err = &Error{Cause: cause}
	for _, st := range s.streams {
		st.out.drop()
		st.changed.Broadcast()
	}
	clear(s.streams)
	clear(s.late)
	close(s.done)
}

// open begins a stream, unless fewer than spare would be left.
func (s *session) open(service string, spare int) (*stream, error) {
	if !validService(service) {
		return nil, fmt.Errorf("open stream %.100q: %w", service, errdefs.ErrInvalidArgument)
	}
	s.link.mu.Lock()
	defer s.link.mu.Unlock()
	if s.err != nil {
		return nil, fmt.Errorf("open stream: %w", s.err)
	}
	if len(s.streams) >= s.opt.MaxStreams-spare || s.last == 1<<32-1 {
		return nil, fmt.Errorf("open stream: too many: %w", errdefs.ErrResourceExhausted)
	}
	st := s.enter(s.last+1, service)
	st.opening = true
	s.link.add(st)
	return st, nil
}

// ping asks the guest for a sign of life, unless it is being asked, and returns what is
// closed when one comes.
func (s *session) ping() (<-chan struct{}, error) {
	s.link.mu.Lock()
	defer s.link.mu.Unlock()
	if s.err != nil {
		return nil, s.err
	}
	if s.pong == nil {
		s.pong = make(chan struct{})
		s.link.send(appendFrame(nil, kindPing, 0))
	}
	return s.pong, nil
}

func (s *session) ponged() error {
	s.link.mu.Lock()
	defer s.link.mu.Unlock()
	if s.pong == nil {
		return fmt.Errorf("unasked sign of life: %w", errBad)
	}
	close(s.pong)
	s.pong = nil
	return nil
}

// await waits until the stream is answered; if that fails, it is closed.
func (st *stream) await(ctx context.Context) error {
	stop := context.AfterFunc(ctx, st.wake)
	defer stop()
	st.s.link.mu.Lock()
	defer st.s.link.mu.Unlock()
	for {
		err := st.refused
		if err == nil {
			err = ctx.Err()
		}
		if err == nil {
			err = st.s.err
		}
		if err != nil && (!st.answered || st.refused != nil) {
			if !st.closed {
				st.shut("")
			}
			return fmt.Errorf("open stream %s: %w", st.service, err)
		}
		if st.answered {
			return nil
		}
		st.changed.Wait()
	}
}

// handle acts on a frame that belongs to a stream; errBad ends the session.
func (s *session) handle(f *frame, d *decoder) error {
	s.link.mu.Lock()
	defer s.link.mu.Unlock()
	if s.err != nil {
		return nil
	}
	var err error
	st, known := s.streams[f.id]
	late, lateKnown := s.late[f.id]
	switch {
	case known:
		err = st.handle(f, d)
	case lateKnown:
		err = s.handleLate(f, late)
	case f.kind == kindOpen && !s.host && f.id > s.last:
		s.opened(f)
	default:
		err = errBad
	}
	if err == nil && len(s.late) > maxLate {
		err = errBad
	}
	if err != nil {
		return fmt.Errorf("frame of kind %d for stream %d: %w", f.kind, f.id, err)
	}
	return nil
}

func (s *session) opened(f *frame) {
	service := string(f.payload[4:])
	full := len(s.streams) >= s.opt.MaxStreams
	st := s.enter(f.id, service)
	st.extend(f.number())
	switch {
	case !validService(service):
		st.shut("no such service")
	case full:
		st.shut("too many streams")
	default:
		s.accept(st)
	}
}

// extend takes the other side's whole window for what it is.
func (st *stream) extend(window int) {
	window = max(window, baseWindow)
	st.credit += window - st.limit
	st.limit = window
}

// handle acts on a frame for a stream that this side has not finished with.
func (st *stream) handle(f *frame, d *decoder) error {
	switch f.kind {
	case kindData:
		if st.inEnd || st.unanswered() || len(f.payload) > st.window {
			return errBad
		}
		st.deliver(f, d)
	case kindWindow:
		n := f.number()
		if st.peerGone || st.unanswered() || n == 0 || st.credit+n > st.limit {
			return errBad
		}
		st.credit += n
		if st.out.size() > 0 {
			st.s.link.add(st)
		}
	case kindAccept:
		if !st.unanswered() || f.number() > maxWindow {
			return errBad
		}
		st.answered = true
		st.extend(f.number())
		if st.out.size() > 0 {
			st.s.link.add(st)
		}
		st.changed.Broadcast()
	case kindRefuse:
		if !st.unanswered() {
			return errBad
		}
		st.answered = true
		st.hangUp(refusalError(f.payload))
	case kindEOF:
		if st.inEnd || st.unanswered() {
			return errBad
		}
		st.inEnd = true
		st.changed.Broadcast()
	case kindClose:
		if st.peerGone || st.unanswered() {
			return errBad
		}
		st.hangUp(nil)
	default:
		return errBad
	}
	return nil
}

// unanswered tells whether the host waits for the guest's answer.
func (st *stream) unanswered() bool { return st.s.host && !st.answered }

// handleLate acts on a frame for a stream that this side has finished with.
func (s *session) handleLate(f *frame, l late) error {
	switch f.kind {
	case kindData:
		l.bytes -= len(f.payload)
	case kindWindow:
		l.windows -= f.number()
	case kindEOF:
		if !l.eof {
			return errBad
		}
		l.eof = false
	case kindAccept:
		if !l.answer || f.number() > maxWindow {
			return errBad
		}
		l.answer = false
	case kindRefuse, kindClose:
		delete(s.late, f.id)
		return nil
	default:
		return errBad
	}
	if l.bytes < 0 || l.windows < 0 {
		return errBad
	}
	s.late[f.id] = l
	return nil
}
