package layer

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime/layer/verity"
)

// sealXattr holds the digest of a blob, on the blob itself: it comes and goes with the
// file, and is as durable. The digest is that of fs-verity, which can be computed while
// the blob is written and which the kernel can be told to check.
const sealXattr = "trusted.cricket.verity"

// seal computes the digest of a blob in passing.
type seal struct {
	hash verity.Hasher
	to   io.WriterAt
}

func (s *seal) over(to io.WriterAt) *seal {
	s.to = to
	return s
}

// WriteAt implements io.WriterAt.
func (s *seal) WriteAt(p []byte, off int64) (int, error) {
	_, _ = s.hash.WriteAt(p, off) // never fails
	return s.to.WriteAt(p, off)
}

// attach notes the digest of the whole blob on its file. A file system without extended
// attributes is no reason to refuse a layer: such blobs can be verified less well.
func (s *Store) attach(f *os.File, of *seal, size int64) error {
	sum, err := of.hash.Sum(size)
	if err != nil {
		return fmt.Errorf("compute digest of blob: %w", err)
	}
	err = unix.Fsetxattr(int(f.Fd()), sealXattr, []byte(sum), 0)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPERM) {
		s.log.Debug("digest of blob is not kept", "error", err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("note digest of blob: %w", err)
	}
	return nil
}

// protect switches fs-verity on, if that is asked for. The file is closed for writing.
func (s *Store) protect(f *os.File) error {
	if !s.fsVerity {
		return nil
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("close blob: %w", err)
	}
	r, err := os.Open(f.Name())
	if err != nil {
		return fmt.Errorf("protect blob: %w", err)
	}
	defer r.Close()
	err = verity.Enable(r)
	if errdefs.IsNotImplemented(err) { // said when the store was opened
		return nil
	}
	if err != nil {
		return fmt.Errorf("protect blob: %w", err)
	}
	return nil
}

// sealed is the digest that is noted on a blob; errdefs.ErrNotFound if there is none.
func sealed(f *os.File) (digest.Digest, error) {
	buf := make([]byte, 128)
	n, err := unix.Fgetxattr(int(f.Fd()), sealXattr, buf)
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPERM) {
		return "", fmt.Errorf("read digest of blob: %w: %w", errdefs.ErrNotFound, err)
	}
	if err != nil {
		return "", fmt.Errorf("read digest of blob: %w", err)
	}
	sum := digest.Digest(buf[:n])
	if err := sum.Validate(); err != nil {
		return "", fmt.Errorf("read digest of blob: %w: %w", errdefs.ErrDataLoss, err)
	}
	return sum, nil
}

// tryVerity says once, when the store opens, whether fs-verity can be had.
func (s *Store) tryVerity() error {
	if !s.fsVerity {
		return nil
	}
	f, err := os.CreateTemp(s.root, tempPrefix)
	if err != nil {
		return fmt.Errorf("try fs-verity: %w", err)
	}
	defer os.Remove(f.Name())
	if err := f.Close(); err != nil {
		return fmt.Errorf("try fs-verity: %w", err)
	}
	r, err := os.Open(f.Name())
	if err != nil {
		return fmt.Errorf("try fs-verity: %w", err)
	}
	defer r.Close()
	if err := verity.Enable(r); err != nil {
		s.log.Warn("layers are not protected by fs-verity", "error", err)
	}
	return nil
}
