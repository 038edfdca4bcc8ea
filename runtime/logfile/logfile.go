// Package logfile writes container output in the CRI's log format, one line each:
//
//	2016-10-06T00:17:09.669794202Z stdout F text of the line
//
// F marks a whole line (or the end of one), P a piece that the next line of the same
// stream goes on with, or with which the stream ended. A container's output must never wait for its log: what cannot
// be written is dropped and counted.
package logfile

import (
	"bytes"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// DefaultMaxLine is the length in bytes from which a line is written in pieces, if no
// other is asked for. It is what other runtimes use and collectors expect.
const DefaultMaxLine = 16 << 10

// flushSize bounds the memory of one batch: output is written when it grows beyond.
const flushSize = 128 << 10

// reopenInterval is how often a log that cannot be opened is tried again.
const reopenInterval = time.Second

// outputs holds the buffers in which batches are formatted. They are borrowed for one
// batch only, so an idle container has none.
type outputs struct{ pool sync.Pool }

func (o *outputs) get() []byte {
	if b, ok := o.pool.Get().(*[]byte); ok {
		return (*b)[:0]
	}
	return make([]byte, 0, flushSize+DefaultMaxLine)
}

func (o *outputs) put(b []byte) {
	if cap(b) <= 2*flushSize {
		o.pool.Put(&b)
	}
}

// Set is what the log files of one process share: buffers. The zero value is ready.
type Set struct{ outputs outputs }

// File is the log of one container. Its streams write whole batches at a time, so
// their lines never mix. All methods are safe for concurrent use.
type File struct {
	set     *Set
	path    string
	maxLine int

	mu      sync.Mutex
	f       *os.File
	tried   time.Time
	err     error
	dropped uint64
	closed  bool
}

// Open returns the log at path, which need not be possible to open: it is tried again
// while output arrives. An empty path discards everything. Lines longer than maxLine
// bytes (DefaultMaxLine if it is not positive) are written in pieces. What a writer
// that was killed left torn at the end of the file is cut off.
func (s *Set) Open(path string, maxLine int) *File {
	if maxLine <= 0 {
		maxLine = DefaultMaxLine
	}
	l := &File{set: s, path: path, maxLine: maxLine}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ready(time.Now()) {
		l.mend()
	}
	return l
}

// Err returns why the log cannot be written at present, or nil.
func (l *File) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// Dropped is the number of bytes of log that could not be written.
func (l *File) Dropped() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dropped
}

// Reopen opens the path anew and writes there from now on (log rotation). If that is
// not possible the old file stays in use.
func (l *File) Reopen() error {
	if l.path == "" {
		return nil
	}
	f, err := open(l.path)
	if err != nil {
		return fmt.Errorf("reopen log: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return f.Close()
	}
	if l.f != nil {
		l.f.Close()
	}
	l.f, l.err = f, nil
	return nil
}

// Close closes the file; later output is discarded.
func (l *File) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	if l.f == nil {
		return nil
	}
	err := l.f.Close()
	l.f = nil
	return err
}

func open(path string) (*os.File, error) {
	// Never follow a symbolic link or block on a FIFO that lies where the log should be.
	return os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o640)
}

// ready says whether there is a file to write to, and tries to open it if not.
func (l *File) ready(now time.Time) bool {
	if l.closed || l.path == "" {
		return false
	}
	if l.f != nil {
		return true
	}
	if now.Sub(l.tried) < reopenInterval {
		return false
	}
	l.tried = now
	l.f, l.err = open(l.path)
	if l.err != nil {
		l.f = nil
	}
	return l.f != nil
}

// mend cuts the file back to its last whole line: a process killed during write(2)
// leaves a part of a line, and what came after it would be unreadable.
func (l *File) mend() {
	st, err := l.f.Stat()
	if err != nil || st.Size() == 0 || !st.Mode().IsRegular() {
		return
	}
	r, err := os.Open(l.path)
	if err != nil {
		return
	}
	defer r.Close()
	tail := make([]byte, min(st.Size(), int64(l.maxLine)+256))
	from := st.Size() - int64(len(tail))
	if _, err := r.ReadAt(tail, from); err != nil || tail[len(tail)-1] == '\n' {
		return
	}
	if i := bytes.LastIndexByte(tail, '\n'); i >= 0 || from == 0 {
		l.err = l.f.Truncate(from + int64(i) + 1)
	}
}

// write appends a batch of whole log lines with one write(2).
func (l *File) write(b []byte, now time.Time) {
	if len(b) == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.ready(now) {
		if l.path != "" {
			l.dropped += uint64(len(b))
		}
		return
	}
	n, err := l.f.Write(b)
	l.err = err
	if err == nil {
		return
	}
	l.dropped += uint64(len(b) - n)
	l.keepWhole(b[:n])
}

// keepWhole takes back the part of a line that a full disk left behind.
func (l *File) keepWhole(written []byte) {
	torn := int64(len(written) - (bytes.LastIndexByte(written, '\n') + 1))
	st, err := l.f.Stat()
	if torn == 0 || err != nil || st.Size() < torn {
		return
	}
	if err := l.f.Truncate(st.Size() - torn); err == nil {
		l.dropped += uint64(torn)
	}
}
