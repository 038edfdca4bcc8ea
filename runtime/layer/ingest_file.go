package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// IngestFile stores a layer of one regular file, owned by root with mode 0644 and the time
// zero, and of nothing that is known of the directories above it. file is its path in the
// layer, as in a tar; size is in bytes.
//
// The id is a name that the caller gives to just this file at just this path, and is not
// compared with anything: the content has to fail where it would end if it is not true.
// Otherwise this is Ingest.
func (s *Store) IngestFile(ctx context.Context, id digest.Digest, file string, size int64, content io.Reader) error {
	stream, err := fileTar(file, size, content)
	if err != nil {
		return err
	}
	return s.ingest(ctx, id, stream, false)
}

// fileTar is the tar of one file.
func fileTar(file string, size int64, content io.Reader) (io.Reader, error) {
	var head bytes.Buffer
	err := tar.NewWriter(&head).WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg, Name: file, Mode: 0o644, Size: size, ModTime: time.Unix(0, 0),
	})
	if err != nil {
		return nil, fmt.Errorf("describe file %.200q: %w: %w", file, errdefs.ErrInvalidArgument, err)
	}
	const block = 512
	end := make([]byte, (block-size%block)%block+2*block) // what fills the last block, and two of zeros
	return io.MultiReader(&head, content, bytes.NewReader(end)), nil
}
