package monitor

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/containerd/errdefs"
)

// Frames are a type byte, a length (32 bit, big endian) and that many bytes.
const (
	frameHeader byte = 1 // JSON: a request or a response
	frameStdin  byte = 2
	frameStdout byte = 3
	frameStderr byte = 4
	frameEOF    byte = 5 // standard input has ended; empty
	frameResize byte = 6 // JSON: runtime.Size
	frameLog    byte = 7 // an offset (64 bit, big endian) and what the log has there
	frameAck    byte = 8 // an offset: what comes before is in safety
)

// Limits of a frame's payload in bytes.
const (
	maxHeader = 4 << 20 // a process with a large environment fits
	// maxReply is for responses, which may come from a guest.
	maxReply  = 64 << 10
	maxData   = 64 << 10
	maxResize = 256
)

const frameOverhead = 5

// frameLimit returns the largest payload of a frame type, or false if there is no
// such type.
func frameLimit(kind byte) (uint32, bool) {
	switch kind {
	case frameHeader:
		return maxHeader, true
	case frameStdin, frameStdout, frameStderr:
		return maxData, true
	case frameEOF:
		return 0, true
	case frameLog:
		return readSize, true
	case frameAck:
		return 8, true
	case frameResize:
		return maxResize, true
	}
	return 0, false
}

// readFrame reads one frame. The payload is in buf if it fits there.
func readFrame(r io.Reader, buf []byte) (byte, []byte, error) {
	return readFrameWithin(r, buf, maxHeader)
}

// readFrameWithin reads a frame of at most header bytes if it is a header. Memory for large
// ones grows with what really arrives, not with what the length claims.
func readFrameWithin(r io.Reader, buf []byte, header uint32) (byte, []byte, error) {
	var head [frameOverhead]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	kind, n := head[0], binary.BigEndian.Uint32(head[1:])
	limit, known := frameLimit(kind)
	if !known {
		return 0, nil, fmt.Errorf("read frame of type %d: %w", kind, errdefs.ErrInvalidArgument)
	}
	if n > limit || kind == frameHeader && n > header {
		return 0, nil, fmt.Errorf("read frame of %d bytes: %w", n, errdefs.ErrResourceExhausted)
	}
	if int(n) <= cap(buf) {
		buf = buf[:n]
		_, err := io.ReadFull(r, buf)
		return kind, buf, noEOF(err)
	}
	payload, err := io.ReadAll(io.LimitReader(r, int64(n)))
	if err == nil && len(payload) < int(n) {
		err = io.ErrUnexpectedEOF
	}
	return kind, payload, err
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// writeFrame writes one frame with a single system call, or a single Write where it is no
// socket.
func writeFrame(w io.Writer, kind byte, payload []byte) error {
	if limit, known := frameLimit(kind); !known || len(payload) > int(limit) {
		return fmt.Errorf("write frame of %d bytes: %w", len(payload), errdefs.ErrResourceExhausted)
	}
	head := binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(payload)))
	if c, ok := w.(*net.UnixConn); ok { // without a copy
		_, err := (&net.Buffers{head, payload}).WriteTo(c)
		return err
	}
	_, err := w.Write(append(head, payload...))
	return err
}

func writeJSON(w io.Writer, kind byte, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode frame: %w", err)
	}
	return writeFrame(w, kind, b)
}
