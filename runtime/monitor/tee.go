package monitor

import (
	"fmt"
	"sync"

	"github.com/containerd/errdefs"
)

// teeQueue is how many bytes an attached client may lag behind before it is cut off.
const teeQueue = 4 << 20

// tee copies output to attached clients. A slow client never delays the log.
type tee struct {
	mu     sync.Mutex
	taps   map[*tap]struct{}
	closed bool
	err    error
}

// chunk is output on its way to a client.
type chunk struct {
	kind byte
	data []byte
}

// tap is the queue of one client.
type tap struct {
	ready  chan struct{} // has room for one
	chunks []chunk
	queued int
	ended  bool
	err    error
}

// add returns a new tap. One of a closed tee has ended already.
func (t *tee) add() *tap {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := &tap{ready: make(chan struct{}, 1), ended: t.closed, err: t.err}
	if t.closed {
		p.wake()
		return p
	}
	if t.taps == nil {
		t.taps = make(map[*tap]struct{})
	}
	t.taps[p] = struct{}{}
	return p
}

func (t *tee) drop(p *tap) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.taps, p)
	p.chunks, p.ended = nil, true
	p.wake()
}

func (t *tee) write(kind byte, b []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for p := range t.taps {
		if p.queued+len(b) > teeQueue {
			p.ended = true
			p.err = fmt.Errorf("attach: client is more than %d bytes behind: %w", teeQueue, errdefs.ErrResourceExhausted)
			delete(t.taps, p)
		} else {
			p.chunks = append(p.chunks, chunk{kind: kind, data: append([]byte(nil), b...)})
			p.queued += len(b)
		}
		p.wake()
	}
}

func (t *tee) close(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed, t.err = true, err
	for p := range t.taps {
		p.ended, p.err = true, err
		p.wake()
	}
	t.taps = nil
}

func (p *tap) wake() {
	select {
	case p.ready <- struct{}{}:
	default:
	}
}

// next blocks until there is output; false when there will be no more.
func (t *tee) next(p *tap) ([]chunk, bool, error) {
	for {
		t.mu.Lock()
		chunks, ended, err := p.chunks, p.ended, p.err
		p.chunks, p.queued = nil, 0
		t.mu.Unlock()
		if len(chunks) > 0 {
			return chunks, true, nil
		}
		if ended {
			return nil, false, err
		}
		<-p.ready
	}
}
