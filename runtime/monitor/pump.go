package monitor

import (
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	readSize = 64 << 10
	// drainLimit bounds what is read after a process has ended, when others go on
	// writing into its pipe. It is more than any pipe holds by default.
	drainLimit = 1 << 20
	// drainTime bounds how long the end of a process waits for its output: a log on a
	// dead network file system must not hide an exit.
	drainTime = 5 * time.Second
)

// buffers lends read buffers to pumps only while there is something to read.
type buffers struct{ pool sync.Pool }

func (b *buffers) get() *[readSize]byte {
	if p, ok := b.pool.Get().(*[readSize]byte); ok {
		return p
	}
	return new([readSize]byte)
}

// pump moves the output of a process out of a pipe, FIFO or pseudo-terminal.
type pump struct {
	src *os.File // non-blocking
	raw syscall.RawConn
	mem *buffers
	// out gets every batch; it must not keep it. flush is told that the process has
	// ended and all it wrote has been delivered.
	out   func(p []byte, at time.Time)
	flush func(at time.Time)

	// name and tail serve a re-exec.
	name string
	tail func() []byte

	drains chan chan struct{}
	halted atomic.Bool
	done   chan struct{}
}

func startPump(src *os.File, mem *buffers, out func([]byte, time.Time), flush func(time.Time)) (*pump, error) {
	raw, err := src.SyscallConn()
	if err != nil {
		return nil, err
	}
	p := &pump{src: src, raw: raw, mem: mem, out: out, flush: flush, drains: make(chan chan struct{}, 1), done: make(chan struct{})}
	go p.run()
	return p, nil
}

// halt ends the pump without closing its source or giving up an unfinished line. It
// reports whether the pump was still running.
func (p *pump) halt() bool {
	select {
	case <-p.done:
		return false
	default:
	}
	p.halted.Store(true)
	if err := p.src.SetReadDeadline(time.Unix(1, 0)); err != nil {
		return false
	}
	<-p.done
	return p.halted.Load()
}

// stop ends the pump and closes its source.
func (p *pump) stop() {
	p.src.Close()
	<-p.done
}

// drain returns when everything that was written before the call has been delivered.
func (p *pump) drain() { p.drainFor(drainTime) }

// drainFor is drain with a limit of time; 0 is none.
func (p *pump) drainFor(limit time.Duration) {
	var late <-chan time.Time
	if limit > 0 {
		timer := time.NewTimer(limit)
		defer timer.Stop()
		late = timer.C
	}
	reply := make(chan struct{})
	select {
	case p.drains <- reply:
	case <-p.done:
		return
	case <-late:
		return
	}
	if err := p.src.SetReadDeadline(time.Unix(1, 0)); err != nil {
		return // closed
	}
	select {
	case <-reply:
	case <-p.done:
	case <-late:
	}
}

func (p *pump) run() {
	defer close(p.done)
	for {
		_, err := p.read()
		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded):
			if p.halted.Load() {
				return
			}
			if !p.answer() {
				p.finish()
				return
			}
		default:
			p.finish()
			return
		}
	}
}

// finish gives up the source, whose output has ended.
func (p *pump) finish() {
	p.halted.Store(false)
	p.flush(time.Now())
	p.src.Close()
}

// answer serves a drain. It reports whether the source is still open.
func (p *pump) answer() bool {
	p.src.SetReadDeadline(time.Time{})
	select {
	case reply := <-p.drains:
		open := p.readOut()
		p.flush(time.Now())
		close(reply)
		return open
	default:
		return true
	}
}

// readOut reads what is there without waiting for more.
func (p *pump) readOut() bool {
	open := true
	p.raw.Control(func(fd uintptr) {
		buf := p.mem.get()
		defer p.mem.pool.Put(buf)
		for total := 0; total < drainLimit; {
			n, err := unix.Read(int(fd), buf[:])
			if err == unix.EINTR {
				continue
			}
			if n <= 0 {
				open = err == unix.EAGAIN
				return
			}
			p.out(buf[:n], time.Now())
			total += n
		}
	})
	return open
}

var errEnd = errors.New("end of output")

// read waits until the source is readable, without holding a buffer meanwhile, and
// delivers one batch.
func (p *pump) read() (n int, err error) {
	var buf *[readSize]byte
	var failed error
	err = p.raw.Read(func(fd uintptr) bool {
		buf = p.mem.get()
		n, failed = unix.Read(int(fd), buf[:])
		if failed == unix.EAGAIN || failed == unix.EINTR {
			p.mem.pool.Put(buf)
			buf = nil
			return failed == unix.EINTR // out of the callback, and again
		}
		return true
	})
	if buf == nil {
		return 0, err
	}
	defer p.mem.pool.Put(buf)
	if err != nil {
		return 0, err
	}
	if failed != nil || n == 0 {
		return 0, errEnd // EIO is how a pseudo-terminal ends
	}
	p.out(buf[:n], time.Now())
	return n, nil
}
