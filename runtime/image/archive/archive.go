// Package archive reads images from OCI layouts, Docker archives and containerd's store,
// and writes OCI layouts. What is read is only found and described here: the image store
// checks it, as it checks what a registry sends.
package archive

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cricket-cri/cricket/runtime/image"
)

// maxDocument bounds, in bytes, what is read into memory of one file.
const maxDocument = 8 << 20

// Archive is a place that images can be imported from. It is the image.Content of all its
// images, and safe for concurrent use.
type Archive struct {
	images []image.Import
	files  files
	// names says under which name a blob lies; others lie where OCI layouts have them.
	names map[digest.Digest]string
	made  map[digest.Digest][]byte // blobs that are in no file
}

// files are what an archive consists of.
type files interface {
	// open answers fs.ErrNotExist for what is not there.
	open(name string) (f io.ReadCloser, size int64, err error)
	close() error
}

// Open opens a directory with an OCI layout, or a file with a tar of one or of a Docker
// archive, which may be compressed by gzip or zstd. Compressed files need as much room in
// the directory for temporary files as they unpack to. What is neither is
// errdefs.ErrInvalidArgument.
func Open(ctx context.Context, path string) (*Archive, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("open archive: %w", err)
	}
	if !st.IsDir() {
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("open archive: %w", err)
		}
		return fromFile(ctx, f, st.Mode().IsRegular())
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, fmt.Errorf("open archive: %w", err)
	}
	return describe(directory{root})
}

// Read is Open for a stream. It is copied into a temporary file, since what it begins with
// can be understood only by what it ends with.
func Read(ctx context.Context, r io.Reader) (*Archive, error) {
	f, err := spool(ctx, r)
	if err != nil {
		return nil, err
	}
	return fromFile(ctx, f, true)
}

func fromFile(ctx context.Context, f *os.File, seekable bool) (*Archive, error) {
	tar, err := openTar(ctx, f, seekable)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read archive: %w", err), f.Close())
	}
	return describe(tar)
}

func describe(in files) (*Archive, error) {
	a := &Archive{files: in, names: map[digest.Digest]string{}, made: map[digest.Digest][]byte{}}
	err := a.readLayout()
	if errors.Is(err, fs.ErrNotExist) {
		err = a.readDocker()
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: neither an OCI layout (index.json) nor a Docker archive (manifest.json): %w", errdefs.ErrInvalidArgument, err)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read archive: %w", err), in.close())
	}
	return a, nil
}

// Images lists what can be imported. An image that the archive has no name for has no
// Names.
func (a *Archive) Images() []image.Import { return a.images }

// Close closes files and removes temporary ones.
func (a *Archive) Close() error { return a.files.close() }

// Open implements image.Content.
func (a *Archive) Open(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	if raw, ok := a.made[desc.Digest]; ok {
		return io.NopCloser(bytes.NewReader(raw)), nil
	}
	name, ok := a.names[desc.Digest]
	if !ok {
		if err := desc.Digest.Validate(); err != nil {
			return nil, fmt.Errorf("open blob: %w: %w", errdefs.ErrInvalidArgument, err)
		}
		name = blobName(desc.Digest)
	}
	f, _, err := a.files.open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open blob: %w: the archive has no %s", errdefs.ErrNotFound, name)
	}
	if err != nil {
		return nil, fmt.Errorf("open blob: %w", err)
	}
	return untilDone{f, ctx}, nil
}

func blobName(d digest.Digest) string { return "blobs/" + d.Algorithm().String() + "/" + d.Encoded() }

// untilDone ends reading with a context.
type untilDone struct {
	io.ReadCloser
	ctx context.Context
}

func (u untilDone) Read(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.ReadCloser.Read(p)
}

// document reads a small file.
func (a *Archive) document(name string) ([]byte, error) {
	f, size, err := a.files.open(name)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	defer f.Close()
	if size > maxDocument {
		return nil, fmt.Errorf("read %s: %w: %d bytes", name, errdefs.ErrInvalidArgument, size)
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxDocument))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return raw, nil
}

func (a *Archive) decode(name string, into any) error {
	raw, err := a.document(name)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("read %s: %w: %w", name, errdefs.ErrInvalidArgument, err)
	}
	return nil
}
