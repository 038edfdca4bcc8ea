package monitor

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
)

// session is the server's end of a call that streams. When its client is gone, what
// it is given goes nowhere.
type session struct {
	conn net.Conn
	mu   sync.Mutex
	dead bool
}

// write sends output; it blocks while the client does not read.
func (s *session) write(kind byte, b []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(b) > 0 && !s.dead {
		n := min(len(b), maxData)
		if err := writeFrame(s.conn, kind, b[:n]); err != nil {
			s.dead = true
		}
		b = b[n:]
	}
}

// end makes all later output go nowhere.
func (s *session) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dead = true
}

// input serves what the client sends until it ends its input for good or leaves.
// ended is called once, when there will be no more input; gone says why.
func (s *session) input(stdin *os.File, resize func(runtime.Size), ended func(gone bool)) {
	buf := make([]byte, maxData)
	var once sync.Once
	for {
		kind, payload, err := readFrame(s.conn, buf)
		if err != nil {
			once.Do(func() { ended(true) })
			return
		}
		switch kind {
		case frameStdin:
			if stdin == nil {
				continue
			}
			gone, err := s.feed(stdin, payload)
			if gone {
				once.Do(func() { ended(true) })
				return
			}
			if err != nil {
				stdin = nil // the process does not read any more: swallow the rest
			}
		case frameEOF:
			once.Do(func() { ended(false) })
			stdin = nil
		case frameResize:
			var size runtime.Size
			if resize != nil && json.Unmarshal(payload, &size) == nil {
				resize(size)
			}
		}
	}
}

// inputPatience is how long input may wait for a process before its client is looked for.
const inputPatience = time.Second

// feed writes input for as long as the process takes, or until the client is gone: while
// this waits nobody reads its connection.
func (s *session) feed(stdin *os.File, b []byte) (gone bool, err error) {
	for {
		_ = stdin.SetWriteDeadline(time.Now().Add(inputPatience)) // a closed file says so in Write
		n, err := stdin.Write(b)
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return false, err
		}
		if hungUp(s.conn) {
			return true, nil
		}
		b = b[n:]
	}
}

// hungUp tells whether the other side has closed a connection, without reading it.
func hungUp(conn net.Conn) bool {
	if c, ok := conn.(interface{ HungUp() bool }); ok { // of runtime/mux
		return c.HungUp()
	}
	c, ok := conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return true
	}
	gone := false
	err = raw.Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		n, err := unix.Poll(p, 0)
		gone = err == nil && n > 0
	})
	return gone || err != nil
}

// sendInput is the client's side: it copies in to the connection.
func sendInput(conn io.Writer, mu *sync.Mutex, in io.Reader) {
	send := func(kind byte, b []byte) error {
		mu.Lock()
		defer mu.Unlock()
		return writeFrame(conn, kind, b)
	}
	buf := make([]byte, 32<<10)
	for {
		n, err := in.Read(buf)
		if n > 0 && send(frameStdin, buf[:n]) != nil {
			return
		}
		if err != nil {
			_ = send(frameEOF, nil) // a dead connection shows where it is read
			return
		}
	}
}
