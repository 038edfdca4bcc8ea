package mux

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

const (
	// maxFrame is the longest frame in bytes, and what a new host sends of zeros. The
	// virtio console driver takes as much in one piece.
	maxFrame   = 32 << 10
	headSize   = 7
	maxPayload = maxFrame - headSize - 1
	endMark    = 0xC5
)

// Kinds of frames. kindHello must not occur elsewhere in a greeting's beginning.
const (
	kindPadding byte = 0 // alone, without anything
	kindData    byte = 1 // payload: at least one byte
	kindWindow  byte = 2 // payload: how many bytes were consumed (4)
	kindOpen    byte = 3 // host only; payload: window (4), service
	kindAccept  byte = 4 // guest only; payload: window (4)
	kindRefuse  byte = 5 // guest only; payload: why
	kindEOF     byte = 6 // no more data
	kindClose   byte = 7 // no more data, and none is read
	kindPing    byte = 8 // host only, of no stream, since version 2
	kindPong    byte = 9 // guest only: the answer to it
	kindHello   byte = 'h'
	kindBye     byte = 'b' // the session is over; payload: why
)

const (
	helloMagic = "cricket1"
	nonceSize  = 16
	helloSize  = len(helloMagic) + nonceSize + 1 // and the version
	maxText    = 256
	// version is what this package speaks; a session uses the lower one of both sides.
	version     = 2
	pingVersion = 2 // the first with pings
)

var (
	errTorn = errors.New("frame was cut off")
	errBad  = errors.New("frame breaks the protocol")
)

// frame is one frame; the payload is valid until the next is read.
type frame struct {
	kind    byte
	id      uint32
	payload []byte
}

func appendFrame(b []byte, kind byte, id uint32, payload ...byte) []byte {
	b = append(b, kind)
	b = binary.BigEndian.AppendUint16(b, uint16(len(payload)))
	b = binary.BigEndian.AppendUint32(b, id)
	b = append(b, payload...)
	return append(b, endMark)
}

func appendNumber(b []byte, kind byte, id uint32, n int, rest string) []byte {
	payload := binary.BigEndian.AppendUint32(make([]byte, 0, 4+maxService), uint32(n))
	return appendFrame(b, kind, id, append(payload, rest...)...)
}

func appendText(b []byte, kind byte, id uint32, text string) []byte {
	return appendFrame(b, kind, id, []byte(text[:min(len(text), maxText)])...)
}

// helloStart is how every greeting begins.
func helloStart() []byte {
	b := appendFrame(nil, kindHello, 0, make([]byte, helloSize)...)[:headSize]
	return append(b, helloMagic...)
}

func appendHello(b []byte, nonce []byte) []byte {
	b = append(b, helloStart()...)
	b = append(b, nonce...)
	return append(b, version, endMark)
}

// decoder reads frames. It keeps no more than one of them.
type decoder struct {
	r       *bufio.Reader
	buf     []byte // room for a payload and the mark
	padding bool   // zeros between frames mean nothing; else they are errBad
}

func newDecoder(r io.Reader, padding bool) *decoder {
	return &decoder{r: bufio.NewReaderSize(r, 2*maxFrame), buf: newBuffer(), padding: padding}
}

func newBuffer() []byte { return make([]byte, maxPayload+1) }

// next reads one frame. After errTorn the next one can be read.
func (d *decoder) next() (frame, error) {
	if err := d.skipPadding(); err != nil {
		return frame{}, err
	}
	var head [headSize]byte
	if _, err := io.ReadFull(d.r, head[:]); err != nil {
		return frame{}, err
	}
	n := int(binary.BigEndian.Uint16(head[1:]))
	if n > maxPayload {
		return frame{}, fmt.Errorf("%d bytes: %w", n, errBad)
	}
	b := d.buf[:n+1]
	if _, err := io.ReadFull(d.r, b); err != nil {
		return frame{}, err
	}
	switch b[n] {
	case endMark:
	case 0:
		return frame{}, errTorn
	default:
		return frame{}, fmt.Errorf("no mark: %w", errBad)
	}
	f := frame{kind: head[0], id: binary.BigEndian.Uint32(head[3:]), payload: b[:n]}
	if !f.valid() {
		return frame{}, fmt.Errorf("kind %d with %d bytes: %w", f.kind, n, errBad)
	}
	return f, nil
}

// valid checks what can be checked of a frame alone.
func (f *frame) valid() bool {
	n, stream := len(f.payload), f.id != 0
	switch f.kind {
	case kindData:
		return stream && n > 0
	case kindWindow, kindAccept:
		return stream && n == 4
	case kindOpen:
		return stream && n > 4 && n <= 4+maxService
	case kindRefuse:
		return stream && n <= maxText
	case kindEOF, kindClose:
		return stream && n == 0
	case kindHello:
		return !stream && n == helloSize && string(f.payload[:len(helloMagic)]) == helloMagic
	case kindBye:
		return !stream && n <= maxText
	case kindPing, kindPong:
		return !stream && n == 0
	}
	return false
}

// number is the payload's first 4 bytes. It is at most maxWindow+1, which is more than
// any number in a correct frame.
func (f *frame) number() int {
	return int(min(binary.BigEndian.Uint32(f.payload), maxWindow+1))
}

func (d *decoder) skipPadding() error {
	for d.padding {
		if _, err := d.r.Peek(1); err != nil {
			return err
		}
		b, err := d.r.Peek(d.r.Buffered())
		if err != nil {
			return err
		}
		zeros := len(b) - len(bytes.TrimLeft(b, "\x00"))
		if _, err := d.r.Discard(zeros); err != nil {
			return err
		}
		if zeros < len(b) {
			return nil
		}
	}
	return nil
}

// skipTo drops bytes, budget at most, up to where pattern begins.
func (d *decoder) skipTo(pattern []byte, budget int) error {
	for {
		if _, err := d.r.Peek(len(pattern)); err != nil {
			return err
		}
		b, err := d.r.Peek(d.r.Buffered())
		if err != nil {
			return err
		}
		i := bytes.Index(b, pattern)
		n := i
		if i < 0 {
			n = len(b) - len(pattern) + 1
		}
		if n > budget {
			return fmt.Errorf("no answer among the bytes that came: %w", errBad)
		}
		budget -= n
		if _, err := d.r.Discard(n); err != nil || i >= 0 {
			return err
		}
	}
}
