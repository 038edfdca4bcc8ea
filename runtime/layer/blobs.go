package layer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime/layer/erofs"
	"github.com/cricket-cri/cricket/runtime/layer/verity"
)

// Blobs reads the blobs below the root of a store, also while another process has the
// store open: a blob never changes, and one that is removed stays readable for whoever
// has opened it. All methods are safe for concurrent use.
type Blobs struct{ Root string }

// List returns the layers that are there, sorted.
func (b Blobs) List() ([]digest.Digest, error) {
	entries, err := os.ReadDir(b.Root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list layers: %w", err)
	}
	var ids []digest.Digest
	for _, e := range entries {
		if id, ok := blobID(e.Name()); ok {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids, nil
}

// Open opens a layer's blob. It answers errdefs.ErrNotFound if there is none.
func (b Blobs) Open(id digest.Digest) (f *os.File, size int64, err error) {
	n, err := name(id)
	if err != nil {
		return nil, 0, err
	}
	return openBlob(filepath.Join(b.Root, n+blobSuffix))
}

func openBlob(path string) (f *os.File, size int64, err error) {
	f, err = os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, fmt.Errorf("open layer: %w: %w", errdefs.ErrNotFound, err)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("open layer: %w", err)
	}
	st, err := f.Stat()
	if err != nil {
		return nil, 0, errors.Join(fmt.Errorf("stat layer: %w", err), f.Close())
	}
	return f, st.Size(), nil
}

// Verdict is what there is to say of a blob that is not damaged.
type Verdict struct {
	// Bytes that were read.
	Bytes int64
	// Sealed says that the content was compared with the digest that was noted when the
	// blob was made. Otherwise only the file system's structure was checked.
	Sealed bool
	// Kernel says that the kernel checks every read (fs-verity).
	Kernel bool
}

// Verify reads a layer's blob from the storage, past what is cached, and checks it. The
// error wraps errdefs.ErrDataLoss if the blob is damaged or cannot be read, and
// errdefs.ErrNotFound if it is not there.
func (b Blobs) Verify(ctx context.Context, id digest.Digest) (Verdict, error) {
	f, size, err := b.Open(id)
	if err != nil {
		return Verdict{}, err
	}
	defer f.Close()
	if err := erofs.Check(f, size); err != nil {
		return Verdict{}, fmt.Errorf("check blob: %w", err)
	}
	return verify(ctx, f, size, true)
}

// Merged lists the files of merged metadata, which machines use beside the layers.
func (b Blobs) Merged() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(b.Root, mergedDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list merged metadata: %w", err)
	}
	var files []string
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), mergedPrefix) {
			files = append(files, filepath.Join(b.Root, mergedDir, e.Name()))
		}
	}
	return files, nil
}

// VerifyMerged is Verify for a file that Merged lists.
func (b Blobs) VerifyMerged(ctx context.Context, file string) (Verdict, error) {
	f, size, err := openBlob(file)
	if err != nil {
		return Verdict{}, err
	}
	defer f.Close()
	if _, _, err := erofs.ReadNote(f, size); err != nil {
		return Verdict{}, fmt.Errorf("check metadata: %w", err)
	}
	return verify(ctx, f, size, false)
}

func verify(ctx context.Context, f *os.File, size int64, structure bool) (Verdict, error) {
	v := Verdict{Bytes: size}
	_, err := verity.Measure(f)
	v.Kernel = err == nil
	// What is cached may be well while the storage is not. A hint: what cannot be dropped
	// is read from the cache.
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	got, err := verity.Of(ctx, io.NewSectionReader(f, 0, size), size)
	if ctx.Err() != nil {
		return v, ctx.Err()
	}
	if err != nil {
		return v, fmt.Errorf("read blob: %w: %w", errdefs.ErrDataLoss, err)
	}
	want, err := sealed(f)
	switch {
	case err == nil && got != want:
		return v, fmt.Errorf("blob has digest %s, not %s: %w", got, want, errdefs.ErrDataLoss)
	case err == nil:
		v.Sealed = true
		return v, nil
	case !errdefs.IsNotFound(err):
		return v, err
	case structure:
		return v, checkStructure(f, size)
	}
	return v, nil
}

// checkStructure is what can be said of blobs of versions that noted no digest.
func checkStructure(f *os.File, size int64) error {
	image, err := erofs.Open(f, size)
	if err != nil {
		return fmt.Errorf("check blob: %w", err)
	}
	if err := image.CheckTree(erofs.DefaultLimits()); err != nil {
		return fmt.Errorf("check blob: %w", err)
	}
	return nil
}

// WriteTar writes a layer as a tar that has the same content, in an order of its own: it
// is not the one that the layer was made of, and has another digest. Equal blobs make
// equal tars. A damaged blob is errdefs.ErrDataLoss.
func (b Blobs) WriteTar(ctx context.Context, id digest.Digest, to io.Writer) error {
	f, size, err := b.Open(id)
	if err != nil {
		return err
	}
	defer f.Close()
	image, err := erofs.Open(f, size)
	if err != nil {
		return fmt.Errorf("read layer: %w", err)
	}
	if err := image.WriteTar(ctx, to, erofs.DefaultLimits()); err != nil {
		return fmt.Errorf("write tar of layer: %w", err)
	}
	return nil
}
