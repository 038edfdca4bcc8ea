package layer

import (
	"context"
	"io"

	"github.com/opencontainers/go-digest"

	"github.com/cricket-cri/cricket/runtime/layer/verity"
)

// Digest identifies the content of one of the files that Flat lists: what was noted when it
// was made, or else what reading it gives. It is fs-verity's, and ends with ctx.
func (*Store) Digest(ctx context.Context, file string) (digest.Digest, error) {
	f, size, err := openBlob(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if sum, err := sealed(f); err == nil {
		return sum, nil
	}
	return verity.Of(ctx, io.NewSectionReader(f, 0, size), size)
}
