package disk

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// A saved disk is a head and pieces of the disk in ascending order: offset and length, each
// eight bytes, big endian, and so many bytes. A piece of length 0 at the end of the disk
// comes last. What no piece has is zero.
const (
	savedHead = "cricket disk 1\n\n"
	pieceHead = 16
	// maxPiece is the longest piece, in bytes, and what saving and loading take of memory.
	maxPiece = 1 << 20
)

// Bytes is the nominal size of the store's disks.
func (s *Store) Bytes() int64 { return s.options.Bytes }

// Save writes what a disk is now to w, without its zeros. Nobody may write to the disk
// meanwhile. It ends with ctx.
func (s *Store) Save(ctx context.Context, owner, name string, w io.Writer) error {
	path, err := s.Path(owner, name)
	if err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("save disk: %w", err)
	}
	defer f.Close()
	out := bufio.NewWriterSize(w, maxPiece)
	if err := save(ctx, f, s.options.Bytes, out); err != nil {
		return fmt.Errorf("save disk: %w", kind(err))
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("save disk: %w", kind(err))
	}
	return nil
}

func save(ctx context.Context, f *os.File, size int64, w io.Writer) error {
	if _, err := io.WriteString(w, savedHead); err != nil {
		return err
	}
	buf, zeros := make([]byte, maxPiece), make([]byte, block)
	for at, end := int64(0), int64(0); at < size; {
		start, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break
		}
		if err != nil {
			return fmt.Errorf("find data: %w", err)
		}
		if at, err = unix.Seek(int(f.Fd()), start, unix.SEEK_HOLE); err != nil {
			return fmt.Errorf("find hole: %w", err)
		}
		for start = max(start/block*block, end); start < at; start = end {
			if err := ctx.Err(); err != nil {
				return err
			}
			n := min(maxPiece, min((at+block-1)/block*block, size)-start)
			end = start + n
			if _, err := f.ReadAt(buf[:n], start); err != nil {
				return fmt.Errorf("read: %w", err)
			}
			for _, e := range appendData(nil, start, trim(buf[:n], zeros)) {
				if err := writePiece(w, e.offset, e.data); err != nil {
					return err
				}
			}
		}
	}
	return writePiece(w, size, nil)
}

// trim leaves out blocks of zeros at the end.
func trim(b, zeros []byte) []byte {
	for len(b) >= block && bytes.Equal(b[len(b)-block:], zeros) {
		b = b[:len(b)-block]
	}
	return b
}

func writePiece(w io.Writer, offset int64, data []byte) error {
	var head [pieceHead]byte
	binary.BigEndian.PutUint64(head[:], uint64(offset))
	binary.BigEndian.PutUint64(head[8:], uint64(len(data)))
	if _, err := w.Write(head[:]); err != nil {
		return err
	}
	_, err := w.Write(data)
	return err
}

// Load is like Take for a disk that Save has written. What r says is checked: anything but
// a saved disk of the store's size is errdefs.ErrDataLoss. It ends with ctx.
func (s *Store) Load(ctx context.Context, owner, name string, r io.Reader) (string, error) {
	path, err := s.Path(owner, name)
	if err != nil {
		return "", err
	}
	err = os.Mkdir(filepath.Dir(path), 0o700)
	if err != nil && !errors.Is(err, os.ErrExist) {
		return "", fmt.Errorf("load disk: %w", kind(err))
	}
	err = writeWith(path, func(f *os.File) error {
		if err := f.Truncate(s.options.Bytes); err != nil {
			return err
		}
		return load(ctx, f, s.options.Bytes, bufio.NewReaderSize(r, 64<<10))
	})
	if err != nil {
		return "", fmt.Errorf("load disk: %w", kind(err))
	}
	return path, nil
}

func load(ctx context.Context, f *os.File, size int64, r io.Reader) error {
	head := make([]byte, len(savedHead))
	if _, err := io.ReadFull(r, head); err != nil || string(head) != savedHead {
		return fmt.Errorf("it does not begin like one: %w", errdefs.ErrDataLoss)
	}
	buf := make([]byte, maxPiece)
	for end := int64(0); ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := io.ReadFull(r, buf[:pieceHead]); err != nil {
			return fmt.Errorf("it has no end: %w: %w", errdefs.ErrDataLoss, err)
		}
		at, n := binary.BigEndian.Uint64(buf), binary.BigEndian.Uint64(buf[8:])
		switch {
		case n > maxPiece || at < uint64(end) || at > uint64(size) || n > uint64(size)-at:
			return fmt.Errorf("piece of %d bytes at %d, of %d: %w", n, at, size, errdefs.ErrDataLoss)
		case n == 0 && at == uint64(size):
			return nil
		case n == 0:
			return fmt.Errorf("it ends at %d of %d: %w", at, size, errdefs.ErrDataLoss)
		}
		if _, err := io.ReadFull(r, buf[:n]); err != nil {
			return fmt.Errorf("piece at %d is cut off: %w: %w", at, errdefs.ErrDataLoss, err)
		}
		if _, err := f.WriteAt(buf[:n], int64(at)); err != nil {
			return err
		}
		end = int64(at + n)
	}
}
