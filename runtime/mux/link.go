package mux

import (
	"io"
	"sync"
)

// batchSize is after how many bytes a write is not made larger.
const batchSize = maxFrame

// link writes to the port. Streams that have something to send take turns, frame by
// frame. Its lock guards everything of the sessions on it, too.
type link struct {
	mu     sync.Mutex
	work   sync.Cond
	port   io.Writer
	urgent []byte    // whole frames that go out before all others
	ready  []*stream // that have something to send
	closed bool      // nothing more is to be sent, but what is urgent
}

func newLink(port io.Writer) *link {
	l := &link{port: port}
	l.work.L = &l.mu
	return l
}

// add makes the writer look after a stream.
func (l *link) add(st *stream) {
	if !st.queued {
		st.queued = true
		l.ready = append(l.ready, st)
		l.work.Signal()
	}
}

// send has the writer send whole frames before all others.
func (l *link) send(frames []byte) {
	l.urgent = append(l.urgent, frames...)
	l.work.Signal()
}

// close ends write when all that is urgent has been written.
func (l *link) close() {
	l.closed = true
	l.ready = nil
	l.work.Signal()
}

// write works until close or an error of the port.
func (l *link) write() error {
	batch := make([]byte, 0, batchSize+2*maxFrame)
	for {
		batch = l.take(batch[:0])
		if len(batch) == 0 {
			return nil
		}
		if _, err := l.port.Write(batch); err != nil {
			return err
		}
	}
}

// take waits for something to send and appends it to b: nothing after close.
func (l *link) take(b []byte) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		b = append(b, l.urgent...)
		l.urgent = nil
		for len(l.ready) > 0 && len(b) < batchSize {
			st := l.ready[0]
			l.ready = l.ready[1:]
			st.queued = false
			var more bool
			if b, more = st.emit(b); more {
				l.add(st)
			}
		}
		if len(b) > 0 || l.closed {
			return b
		}
		l.work.Wait()
	}
}
