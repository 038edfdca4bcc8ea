package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// directory is an archive that lies in one. Nothing outside of it is opened, whatever
// links it holds.
type directory struct{ root *os.Root }

func (d directory) open(name string) (io.ReadCloser, int64, error) {
	f, err := d.root.Open(name)
	if err != nil {
		return nil, 0, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%w: %s is no regular file", errdefs.ErrInvalidArgument, name)
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, st.Size(), nil
}

func (d directory) close() error { return d.root.Close() }

// maxEntries bounds the names of a tar that are kept in memory.
const maxEntries = 100_000

// tarFile is an archive in a tar, which is read where it lies.
type tarFile struct {
	f       *os.File
	entries map[string]entry
}

type entry struct {
	offset, size int64
	link         string // the name that this one stands for
}

func openTar(ctx context.Context, f *os.File, seekable bool) (*tarFile, error) {
	head := make([]byte, 4)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return nil, err
	}
	in := io.MultiReader(bytes.NewReader(head[:n]), f)
	plain, err := inflate(head[:n], in)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
	}
	t := &tarFile{f: f, entries: map[string]entry{}}
	if plain != nil || !seekable {
		if plain == nil {
			plain = io.NopCloser(in)
		}
		defer plain.Close()
		if t.f, err = spool(ctx, plain); err != nil {
			return nil, err
		}
		f.Close()
	} else if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	if err := t.index(ctx); err != nil {
		if t.f != f {
			t.f.Close()
		}
		return nil, err
	}
	return t, nil
}

// inflate is nil for what is not compressed.
func inflate(head []byte, in io.Reader) (io.ReadCloser, error) {
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return gzip.NewReader(in)
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		d, err := zstd.NewReader(in, zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	}
	return nil, nil
}

// spool copies a stream into a file without a name.
func spool(ctx context.Context, r io.Reader) (*os.File, error) {
	f, err := os.CreateTemp("", "cricket-image-")
	if err != nil {
		return nil, fmt.Errorf("copy archive: %w", err)
	}
	os.Remove(f.Name())
	in := &source{Reader: r, ctx: ctx}
	_, err = io.Copy(f, in)
	if in.err != nil {
		return nil, errors.Join(fmt.Errorf("copy archive: %w: %w", errdefs.ErrInvalidArgument, in.err), f.Close())
	}
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("copy archive to %s (TMPDIR): %w", os.TempDir(), err), f.Close())
	}
	return f, nil
}

// source remembers how a stream failed, to tell that from a full disk.
type source struct {
	io.Reader
	ctx context.Context
	err error
}

func (s *source) Read(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := s.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// index notes where files begin. The reader seeks over their content.
func (t *tarFile) index(ctx context.Context) error {
	tr := tar.NewReader(t.f)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
		}
		if len(t.entries) >= maxEntries {
			return fmt.Errorf("%w: more than %d files", errdefs.ErrInvalidArgument, maxEntries)
		}
		name := path.Clean(strings.TrimLeft(h.Name, "/"))
		switch h.Typeflag {
		case tar.TypeReg:
			at, err := t.f.Seek(0, io.SeekCurrent)
			if err != nil {
				return err
			}
			t.entries[name] = entry{offset: at, size: h.Size}
		case tar.TypeLink:
			t.entries[name] = entry{link: path.Clean(h.Linkname)}
		case tar.TypeSymlink: // Docker's way to say that images share a layer
			t.entries[name] = entry{link: path.Join(path.Dir(name), h.Linkname)}
		}
	}
}

func (t *tarFile) open(name string) (io.ReadCloser, int64, error) {
	name = path.Clean(name)
	for range 8 {
		e, ok := t.entries[name]
		if !ok {
			break
		}
		if e.link == "" {
			return io.NopCloser(io.NewSectionReader(t.f, e.offset, e.size)), e.size, nil
		}
		name = e.link
	}
	return nil, 0, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
}

func (t *tarFile) close() error { return t.f.Close() }
