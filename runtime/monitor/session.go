package monitor

import (
	"encoding/json"
	"io"
	"net"
	"os"
	"sync"

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
			if _, err := stdin.Write(payload); err != nil {
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
