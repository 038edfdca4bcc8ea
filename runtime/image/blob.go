package image

import (
	"bufio"
	"bytes"
	_ "crypto/sha512" // go-digest uses the hashes that are linked in
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// checkDigest refuses digests that are malformed or of an algorithm we cannot compute.
func checkDigest(d digest.Digest) error {
	if err := d.Validate(); err != nil {
		return fmt.Errorf("check digest %q: %w: %w", d, errdefs.ErrFailedPrecondition, err)
	}
	return nil
}

// untrueError says that a blob is not what its descriptor says. Another endpoint may have
// the true one.
type untrueError struct {
	blob digest.Digest
	text string
}

func (e *untrueError) Error() string { return fmt.Sprintf("check blob %s: %s", e.blob, e.text) }
func (*untrueError) Unwrap() error   { return errdefs.ErrFailedPrecondition }

func untrue(err error) bool {
	_, ok := errors.AsType[*untrueError](err)
	return ok
}

func (v *verifier) untrue(format string, args ...any) error {
	return &untrueError{v.want.Digest, fmt.Sprintf(format, args...)}
}

// verifier passes a blob through and answers with an error instead of the end if size or
// digest are not those of the descriptor. Whoever reads to the end has the true blob.
type verifier struct {
	from io.Reader
	want ocispec.Descriptor
	hash digest.Verifier
	left int64
	err  error // sticky; io.EOF when the blob was found true
}

func newVerifier(from io.Reader, want ocispec.Descriptor) *verifier {
	return &verifier{from: from, want: want, hash: want.Digest.Verifier(), left: want.Size}
}

func (v *verifier) Read(p []byte) (int, error) {
	if v.err != nil {
		return 0, v.err
	}
	n, err := v.from.Read(p)
	_, _ = v.hash.Write(p[:n]) // hashes do not fail
	v.left -= int64(n)
	switch {
	case v.left < 0:
		v.err = v.untrue("longer than %d bytes", v.want.Size)
	case errors.Is(err, io.EOF) && v.left > 0:
		v.err = v.untrue("ends %d bytes early", v.left)
	case errors.Is(err, io.EOF) && !v.hash.Verified():
		v.err = v.untrue("content has another digest")
	default:
		v.err = err
	}
	return n, v.err
}

// maxWindow is the memory one zstd layer may ask for: what `zstd --long` needs.
const maxWindow = 128 << 20

// inflate finds out how the stream is compressed and returns the tar stream in it. The
// content decides: media types are wrong often enough, and the diff id is checked in any
// case.
func inflate(r io.Reader) (io.ReadCloser, error) {
	buf := bufio.NewReaderSize(r, 128<<10)
	head, err := buf.Peek(262)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case len(head) == 262 && string(head[257:]) == "ustar":
		return io.NopCloser(buf), nil
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return gzip.NewReader(buf)
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}), zstdSkippable(head):
		d, err := zstd.NewReader(buf, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(2))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	}
	return io.NopCloser(buf), nil
}

// zstdSkippable recognizes the frames that some writers put before the data.
func zstdSkippable(head []byte) bool {
	return len(head) >= 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:4], []byte{0x2a, 0x4d, 0x18})
}

// inflated is the tar stream of a blob. It ends a stream that grows beyond all measure,
// and says of what cannot be read why.
type inflated struct {
	from  io.Reader
	blob  *verifier
	left  int64
	limit int64
}

func (i *inflated) Read(p []byte) (n int, err error) {
	defer recovered(&err)
	n, err = i.from.Read(p)
	i.left -= int64(n)
	if i.left < 0 {
		return 0, fmt.Errorf("inflate layer: %w: more than %d bytes, the limit", errdefs.ErrResourceExhausted, i.limit)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		err = i.blob.reason(err)
	}
	return n, err
}

// reason prefers what broke the blob off to what its reader made of that.
func (v *verifier) reason(err error) error {
	if v.err != nil && !errors.Is(v.err, io.EOF) {
		return v.err
	}
	return fmt.Errorf("inflate layer: %w: %w", errdefs.ErrFailedPrecondition, err)
}
