package erofs

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math"

	"github.com/containerd/errdefs"
)

const (
	bufferSize = 1 << 20
	// holeBlocks is the shortest run of zero blocks that is left out of the output.
	// Shorter holes would cost more in fragments than they save.
	holeBlocks = 16
)

// output writes blocks one after the other, in large pieces.
type output struct {
	w    io.WriterAt
	buf  []byte
	n    int   // bytes in buf
	base int64 // where buf begins in the image
	zero []byte
}

func newOutput(w io.WriterAt) *output {
	return &output{w: w, buf: make([]byte, bufferSize), base: BlockSize, zero: make([]byte, BlockSize)}
}

// block is the number of the block that is written next; the output is aligned.
func (o *output) block() (uint32, error) {
	b := (o.base + int64(o.n)) / BlockSize
	if b > math.MaxUint32 {
		return 0, fmt.Errorf("image is larger than 16 TiB: %w", errdefs.ErrResourceExhausted)
	}
	return uint32(b), nil
}

// write appends p.
func (o *output) write(p []byte) error {
	for len(p) > 0 {
		if o.n == len(o.buf) {
			if err := o.flush(); err != nil {
				return err
			}
		}
		c := copy(o.buf[o.n:], p)
		o.n += c
		p = p[c:]
	}
	return nil
}

// readFrom appends size bytes of r, reading straight into the buffer. budget is asked
// before every piece whether so many more bytes are allowed.
func (o *output) readFrom(ctx context.Context, r io.Reader, size int64, budget func(int) error) error {
	for size > 0 {
		if o.n == len(o.buf) {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := o.flush(); err != nil {
				return err
			}
		}
		room := o.buf[o.n:]
		if int64(len(room)) > size {
			room = room[:size]
		}
		n, err := io.ReadFull(r, room)
		if err != nil {
			return &dataError{err}
		}
		if err := budget(n); err != nil {
			return err
		}
		o.n += n
		size -= int64(n)
	}
	return o.align()
}

// dataError is a failure to read a file's data.
type dataError struct{ err error }

func (e *dataError) Error() string { return "read file's data: " + e.err.Error() }

// align fills up with zeros to the next block.
func (o *output) align() error {
	end := (o.n + BlockSize - 1) &^ (BlockSize - 1)
	clear(o.buf[o.n:end])
	o.n = end
	return nil
}

// flush writes the buffer, leaving out long runs of zero blocks: the image is a
// sparse file there.
func (o *output) flush() error {
	begin := 0 // of what is to be written
	for at := 0; at < o.n; {
		end := at
		for end < o.n && bytes.Equal(o.buf[end:min(end+BlockSize, o.n)], o.zero[:min(BlockSize, o.n-end)]) {
			end += BlockSize
		}
		if end-at >= holeBlocks*BlockSize {
			if err := o.put(begin, at); err != nil {
				return err
			}
			begin = min(end, o.n)
		}
		at = end + BlockSize
	}
	if err := o.put(begin, o.n); err != nil {
		return err
	}
	o.base += int64(o.n)
	o.n = 0
	return nil
}

func (o *output) put(from, to int) error {
	if from >= to {
		return nil
	}
	if _, err := o.w.WriteAt(o.buf[from:to], o.base+int64(from)); err != nil {
		return fmt.Errorf("write image: %w", err)
	}
	return nil
}
