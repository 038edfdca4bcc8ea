package mux

// queue holds received bytes in the buffers that they arrived in, or copied together
// where they are few: it takes at most about twice the memory of its content.
type queue struct {
	parts [][]byte
	from  int // where the first part goes on
	pool  *pool
}

// smallPart is the buffer for the first few bytes.
const smallPart = 1 << 10

// write appends p, which lies in buf, and returns the buffer to be used next.
func (q *queue) write(p, buf []byte) []byte {
	if n := len(q.parts); n > 0 {
		last := &q.parts[n-1]
		m := min(cap(*last)-len(*last), len(p))
		*last = append(*last, p[:m]...)
		if p = p[m:]; m > 0 && len(p) > 0 {
			q.parts = append(q.parts, append(q.pool.get()[:0], p...))
			return buf
		}
	}
	switch {
	case len(p) == 0:
	case len(p) >= maxPayload/2:
		q.parts = append(q.parts, p)
		return q.pool.get()
	case len(q.parts) == 0 && len(p) <= smallPart:
		q.parts = append(q.parts, append(make([]byte, 0, smallPart), p...))
	default:
		q.parts = append(q.parts, append(q.pool.get()[:0], p...))
	}
	return buf
}

func (q *queue) read(p []byte) (n int) {
	for len(q.parts) > 0 && n < len(p) {
		first := q.parts[0]
		m := copy(p[n:], first[q.from:])
		n += m
		if q.from += m; q.from < len(first) {
			break
		}
		q.pool.put(first)
		q.parts[0] = nil
		q.parts, q.from = q.parts[1:], 0
	}
	return n
}

// size is how many bytes are to be read.
func (q *queue) size() (n int) {
	for _, p := range q.parts {
		n += len(p)
	}
	return n - q.from
}

func (q *queue) drop() { q.parts, q.from = nil, 0 }

// pool keeps a few buffers for frames.
type pool struct{ free [][]byte }

const poolSize = 4

func (p *pool) get() []byte {
	if n := len(p.free); n > 0 {
		b := p.free[n-1]
		p.free = p.free[:n-1]
		return b
	}
	return newBuffer()
}

// put takes a buffer back if it is one for frames.
func (p *pool) put(b []byte) {
	if len(p.free) < poolSize && cap(b) == maxPayload+1 {
		p.free = append(p.free, b[:cap(b)])
	}
}

// outbox holds bytes to be sent.
type outbox struct {
	buf  []byte
	from int
}

// outboxSize is two frames: one can be filled while the other is being sent.
const outboxSize = 2 * maxFrame

func (o *outbox) size() int { return len(o.buf) - o.from }

func (o *outbox) drop() { o.buf, o.from = nil, 0 }

// add takes what fits.
func (o *outbox) add(p []byte) int {
	n := min(outboxSize-o.size(), len(p))
	if o.from > 0 && len(o.buf)+n > cap(o.buf) {
		o.buf = o.buf[:copy(o.buf, o.buf[o.from:])]
		o.from = 0
	}
	o.buf = append(o.buf, p[:n]...)
	return n
}

// take returns n bytes, valid until the next add.
func (o *outbox) take(n int) []byte {
	b := o.buf[o.from : o.from+n]
	if o.from += n; o.from == len(o.buf) {
		o.buf, o.from = o.buf[:0], 0
	}
	return b
}
