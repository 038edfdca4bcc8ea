package layer

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime/layer/erofs"
)

// Ingest stores the layer whose uncompressed tar is read from tar, to its end. When it
// answers nil, the layer is whole and on the disk; if it fails, there is nothing of
// it. A tar of another digest is errdefs.ErrInvalidArgument. If the layer is there
// already, nothing is read.
//
// Of concurrent calls for one layer one works while the others wait for the result;
// if it fails, the next takes over with its own tar. Reads of tar must fail when ctx
// ends: Ingest never returns while one is under way.
func (s *Store) Ingest(ctx context.Context, id digest.Digest, tar io.Reader) error {
	return s.ingest(ctx, id, tar, true)
}

// ingest takes a layer in whose id is the digest of its tar, which is compared, or a mere
// name.
func (s *Store) ingest(ctx context.Context, id digest.Digest, tar io.Reader, compare bool) error {
	n, err := name(id)
	if err != nil {
		return err
	}
	release, err := s.locks.acquire(ctx, n)
	if err != nil {
		return err
	}
	defer release()
	if _, _, err := s.Blob(id); !errdefs.IsNotFound(err) {
		return err
	}
	f, err := os.CreateTemp(s.root, tempPrefix)
	if err != nil {
		return fmt.Errorf("create blob: %w", err)
	}
	defer f.Close()
	if err := s.write(ctx, f, id, tar, compare); err != nil {
		os.Remove(f.Name())
		return err
	}
	if err := s.protect(f); err != nil {
		os.Remove(f.Name())
		return err
	}
	if err := os.Rename(f.Name(), s.blob(n)); err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("publish blob: %w", err)
	}
	return syncDir(s.root)
}

// write makes the blob in f and syncs it.
func (s *Store) write(ctx context.Context, f *os.File, id digest.Digest, tar io.Reader, compare bool) error {
	o := erofs.Options{Limits: s.limits, Align: Step}
	var sum digest.Digester
	if compare {
		sum = id.Algorithm().Digester()
	}
	r := newHasher(tar, sum)
	if compare {
		o.Verify = func() error { return r.verify(id) }
	}
	raw, _ := hex.DecodeString(id.Encoded())
	copy(o.UUID[:], raw)
	var seal seal
	res, err := erofs.Write(ctx, seal.over(&writeback{f: f}), r, o)
	r.stop()
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("write layer: %w: %w", errdefs.ErrResourceExhausted, err)
	}
	if err != nil {
		return fmt.Errorf("write layer: %w", err)
	}
	if res.Dropped > 0 {
		s.log.Warn("layer has entries that are left out", "layer", id, "count", res.Dropped)
	}
	if err := f.Truncate(res.Size); err != nil {
		return fmt.Errorf("lengthen blob: %w", err)
	}
	if err := f.Chmod(0o400); err != nil {
		return fmt.Errorf("protect blob: %w", err)
	}
	if err := s.attach(f, &seal, res.Size); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync blob: %w", err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	return nil
}

// writeback has the kernel begin writing to the disk early, so that the sync at the
// end finds little left to do.
type writeback struct {
	f     *os.File
	begun int64
}

const writebackStep = 8 << 20

func (w *writeback) WriteAt(p []byte, off int64) (int, error) {
	n, err := w.f.WriteAt(p, off)
	if end := off + int64(n); err == nil && end-w.begun >= writebackStep {
		// A mere hint: what fails here fails again, and is seen, in Sync.
		_ = unix.SyncFileRange(int(w.f.Fd()), w.begun, end-w.begun, unix.SYNC_FILE_RANGE_WRITE)
		w.begun = end
	}
	return n, err
}

// hasher passes a stream on, reading ahead and hashing in goroutines of its own, so
// that decompression, hashing and writing overlap. Without a digester it only reads ahead.
type hasher struct {
	free chan []byte // empty buffers, for the reading goroutine
	full chan piece  // hashed
	done chan struct{}
	quit chan struct{}

	digester digest.Digester
	rest     []byte // of the current piece, not passed on yet
	whole    []byte // the current piece's buffer
	err      error  // the end of the stream
}

type piece struct {
	buf []byte
	n   int
	err error
}

const (
	pieceSize  = 256 << 10
	pieceCount = 6
)

func newHasher(src io.Reader, sum digest.Digester) *hasher {
	h := &hasher{
		free: make(chan []byte, pieceCount), full: make(chan piece, pieceCount),
		done: make(chan struct{}), quit: make(chan struct{}), digester: sum,
	}
	for range pieceCount {
		h.free <- make([]byte, pieceSize)
	}
	read := make(chan piece, pieceCount)
	go h.readAhead(src, read)
	go h.hash(read)
	return h
}

func (h *hasher) readAhead(src io.Reader, out chan<- piece) {
	defer close(out)
	for {
		select {
		case <-h.quit:
			return
		case buf := <-h.free:
			n, err := fill(src, buf)
			out <- piece{buf, n, err}
			if err != nil {
				return
			}
		}
	}
}

// fill reads until buf is full or the stream ends, with the stream's own error.
func fill(src io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var m int
		m, err = src.Read(buf[n:])
		n += m
	}
	return n, err
}

func (h *hasher) hash(in <-chan piece) {
	defer close(h.done)
	for p := range in {
		if h.digester != nil {
			h.digester.Hash().Write(p.buf[:p.n])
		}
		h.full <- p // as large as there are buffers: never blocks
	}
}

// Read implements io.Reader.
func (h *hasher) Read(p []byte) (int, error) {
	for len(h.rest) == 0 {
		if h.err != nil {
			return 0, h.err
		}
		if h.whole != nil {
			h.free <- h.whole
		}
		next := <-h.full
		h.whole, h.rest, h.err = next.buf, next.buf[:next.n], next.err
	}
	n := copy(p, h.rest)
	h.rest = h.rest[n:]
	return n, nil
}

// verify compares the digest of the stream, which must have been read to its end.
func (h *hasher) verify(want digest.Digest) error {
	<-h.done
	if got := h.digester.Digest(); got != want {
		return fmt.Errorf("tar has digest %s, not %s: %w", got, want, errdefs.ErrInvalidArgument)
	}
	return nil
}

// stop ends the goroutines and waits for them.
func (h *hasher) stop() {
	close(h.quit)
	<-h.done
}
