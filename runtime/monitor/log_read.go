package monitor

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"

	"github.com/containerd/errdefs"
)

// LogRequest asks for the log of a container. Offsets count from the first byte that was
// ever written to it.
type LogRequest struct {
	ID     string `json:"-"`
	Offset int64  `json:"offset,omitempty"`
}

// Log reads the log of a container as it grows, until the container has exited and w
// has had everything. w gets whole lines, at most 128 KiB at a time, and the offset of
// the first byte; a line that is longer comes in pieces. When w has returned, these
// lines are acknowledged: the monitor may forget them. So a later call from the same
// offset may begin with a later line. An Offset beyond the end of the log is
// errdefs.ErrInvalidArgument.
//
// The other side need not be trusted: whatever it sends, w is called with growing
// offsets and memory is bounded.
func (c *Client) Log(ctx context.Context, r LogRequest, w func(offset int64, p []byte) error) error {
	conn, err := c.open(ctx, "log", r.ID, r)
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	l := &logReader{conn: conn, mem: &c.buffers, next: r.Offset, deliver: w}
	err = l.run()
	if ctx.Err() != nil && err != nil {
		return ctx.Err()
	}
	return err
}

// logReader is the client's end of a log.
type logReader struct {
	conn    net.Conn
	mem     *buffers
	next    int64  // offset of what comes next
	carry   []byte // the beginning of a line, which ends at next
	deliver func(int64, []byte) error
}

func (l *logReader) run() error {
	var head [frameOverhead]byte
	for {
		if _, err := io.ReadFull(l.conn, head[:]); err != nil {
			return fmt.Errorf("read log: %w: %w", errdefs.ErrUnavailable, err)
		}
		n := binary.BigEndian.Uint32(head[1:])
		switch head[0] {
		case frameHeader:
			return l.end(n)
		case frameLog:
			if err := l.part(n); err != nil {
				return err
			}
		default:
			return fmt.Errorf("read log: frame of type %d: %w", head[0], errdefs.ErrUnavailable)
		}
	}
}

// end reads the response.
func (l *logReader) end(n uint32) error {
	if n > maxReply {
		return fmt.Errorf("read log: response of %d bytes: %w", n, errdefs.ErrUnavailable)
	}
	payload := make([]byte, n)
	if _, err := io.ReadFull(l.conn, payload); err != nil {
		return fmt.Errorf("read log: %w: %w", errdefs.ErrUnavailable, err)
	}
	return decodeReply(payload, nil)
}

// part reads one frame of log. The buffer is borrowed only now that there is something.
func (l *logReader) part(n uint32) error {
	if n <= 8 || n > readSize {
		return fmt.Errorf("read log: frame of %d bytes: %w", n, errdefs.ErrUnavailable)
	}
	buf := l.mem.get()
	defer l.mem.pool.Put(buf)
	if _, err := io.ReadFull(l.conn, buf[:n]); err != nil {
		return fmt.Errorf("read log: %w: %w", errdefs.ErrUnavailable, err)
	}
	at := int64(binary.BigEndian.Uint64(buf[:]))
	if at < l.next || at > 1<<62 {
		return fmt.Errorf("read log: offset %d after %d: %w", at, l.next, errdefs.ErrUnavailable)
	}
	if at > l.next { // what is between was given up
		l.carry = nil
	}
	return l.take(at, buf[8:n])
}

func (l *logReader) take(at int64, p []byte) error {
	l.next = at + int64(len(p))
	if len(l.carry) > 0 {
		at -= int64(len(l.carry))
		p = append(l.carry, p...)
		l.carry = nil
	}
	whole := bytes.LastIndexByte(p, '\n') + 1
	if len(p)-whole > maxLog {
		whole = len(p)
	}
	l.carry = append([]byte(nil), p[whole:]...)
	if whole == 0 {
		return nil
	}
	if err := l.deliver(at, p[:whole]); err != nil {
		return fmt.Errorf("deliver log: %w", err)
	}
	// A connection that is dead shows where it is read.
	_ = writeFrame(l.conn, frameAck, binary.BigEndian.AppendUint64(nil, uint64(at)+uint64(whole)))
	return nil
}
