// Package verity computes the digest that the kernel's fs-verity gives a file, and has
// the kernel check a file against it at every read.
//
// The digest is the root of a tree of SHA-256 over blocks of 4096 bytes, as
// Documentation/filesystems/fsverity.rst of the kernel defines it, without a salt. It is
// worth as much as the SHA-256 of the whole file, and unlike that it can be computed while
// a file is written whose first block comes last.
package verity

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
)

// BlockSize is the unit of the tree in bytes.
const BlockSize = 4096

const (
	hashSize = sha256.Size
	fanOut   = BlockSize / hashSize
)

// Hasher computes the digest of a file while it is written: blocks in the order of the
// file, but for the first, which may come at any time. What is left out are zeros. The
// zero value is ready; it keeps about 8 KiB for each level of the tree.
type Hasher struct {
	levels []*level
	first  [BlockSize]byte // of the file
	next   int64           // the block that is awaited
	err    error
}

// level collects the hashes of the level below, the first of which is not known before
// the end: it is that of the file's first block, or depends on it.
type level struct {
	first, last [BlockSize]byte
	count       int64
}

// errOrder: what was written cannot be hashed in passing.
var errOrder = errors.New("blocks were not written in the file's order")

// WriteAt implements io.WriterAt and never fails: Sum tells of writes out of order.
func (h *Hasher) WriteAt(p []byte, off int64) (int, error) {
	n := len(p)
	if off == 0 && n >= BlockSize {
		copy(h.first[:], p)
		p, off = p[BlockSize:], BlockSize
	}
	if len(p) == 0 || h.err != nil {
		return n, nil
	}
	block := off / BlockSize
	if off%BlockSize != 0 || len(p)%BlockSize != 0 || block < max(h.next, 1) {
		h.err = errOrder
		return n, nil
	}
	h.zeros(block)
	for ; len(p) > 0; p = p[BlockSize:] {
		h.add(0, sha256.Sum256(p[:BlockSize]))
		h.next++
	}
	return n, nil
}

// zeros accounts for the blocks up to one that were left out.
func (h *Hasher) zeros(until int64) {
	h.next = max(h.next, 1)
	if h.next >= until {
		return
	}
	zero := sha256.Sum256(make([]byte, BlockSize))
	for ; h.next < until; h.next++ {
		h.add(0, zero)
	}
}

// add appends the hash of a block to a level.
func (h *Hasher) add(at int, sum [hashSize]byte) {
	if at == len(h.levels) {
		h.levels = append(h.levels, &level{count: 1})
	}
	l := h.levels[at]
	slot := l.count % fanOut * hashSize
	if l.count < fanOut {
		copy(l.first[slot:], sum[:])
	} else {
		copy(l.last[slot:], sum[:])
	}
	l.count++
	if l.count > fanOut && l.count%fanOut == 0 {
		h.add(at+1, sha256.Sum256(l.last[:]))
		l.last = [BlockSize]byte{}
	}
}

// Sum is the digest of a file of size bytes, a multiple of BlockSize and not zero. It
// fails if blocks were written in another order. Nothing may be written afterwards.
func (h *Hasher) Sum(size int64) (digest.Digest, error) {
	blocks := size / BlockSize
	if h.err == nil && (blocks == 0 || size%BlockSize != 0 || blocks < h.next) {
		h.err = fmt.Errorf("digest of a file of %d bytes", size)
	}
	if h.err != nil {
		return "", h.err
	}
	h.zeros(blocks)
	root := sha256.Sum256(h.first[:])
	for at := 0; at < len(h.levels) && h.levels[at].count > 1; at++ {
		l := h.levels[at]
		copy(l.first[:], root[:])
		if l.count > fanOut && l.count%fanOut != 0 {
			h.add(at+1, sha256.Sum256(l.last[:]))
		}
		root = sha256.Sum256(l.first[:])
	}
	return describe(size, root), nil
}

// describe hashes struct fsverity_descriptor: the tree's parameters, the size, the root.
func describe(size int64, root [hashSize]byte) digest.Digest {
	var d [256]byte
	d[0] = 1  // version
	d[1] = 1  // FS_VERITY_HASH_ALG_SHA256
	d[2] = 12 // log2 of BlockSize
	binary.LittleEndian.PutUint64(d[8:], uint64(size))
	copy(d[16:], root[:])
	sum := sha256.Sum256(d[:])
	return digest.NewDigestFromBytes(digest.SHA256, sum[:])
}

// Of reads size bytes, a multiple of BlockSize, and computes their digest. Reading ends
// with ctx.
func Of(ctx context.Context, r io.Reader, size int64) (digest.Digest, error) {
	var h Hasher
	buf := make([]byte, 1<<20)
	for off := int64(0); off < size; {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		n, err := io.ReadFull(r, buf[:min(int64(len(buf)), size-off)])
		if err != nil {
			return "", fmt.Errorf("read at byte %d: %w", off+int64(n), err)
		}
		_, _ = h.WriteAt(buf[:n], off) // never fails
		off += int64(n)
	}
	return h.Sum(size)
}
