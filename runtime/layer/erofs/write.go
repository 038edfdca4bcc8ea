package erofs

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Limits bounds what one tar may make the writer keep in memory or read through.
type Limits struct {
	// Entries is the most entries (files, directories, links, directories that are only
	// implied) a tar may have. A file costs about 100 bytes of memory, a directory or
	// symbolic link 200.
	Entries int
	// Metadata is the most bytes of names, link targets and xattrs together.
	Metadata int64
	// Sparse is by how many bytes the data may exceed the tar itself: the holes of
	// sparse files, which a tar of a few bytes can claim to be of any size.
	Sparse int64
}

// DefaultLimits admit every layer seen in the field: some 700 MiB of memory at worst.
func DefaultLimits() Limits {
	return Limits{Entries: 2 << 20, Metadata: 256 << 20, Sparse: 64 << 30}
}

// Options for Write. Zero fields of Limits take the defaults.
type Options struct {
	Limits Limits
	// UUID of the file system.
	UUID [16]byte
	// Verify, if set, is called when the tar has been read to its end. If it fails,
	// the superblock is not written and Write answers its error.
	Verify func() error
	// Align makes the image's size a multiple of so many bytes, which is one of BlockSize.
	// Nothing is written there: the caller lengthens the file to Result.Size.
	Align int64
}

// Result says what an image holds.
type Result struct {
	Size   int64 // bytes, a multiple of BlockSize
	Inodes uint64
	// Dropped counts the xattrs that the tar had and the image has not: those of the
	// trusted name space, and those that EROFS cannot hold.
	Dropped int
}

// Write reads a tar, to the very end of r, and writes the image to out, which must
// read as zeros where nothing has been written. Nothing but r and out is touched. If it
// fails, out holds no superblock and does not mount. A tar that is malformed, or asks
// for what an image must not hold, is errdefs.ErrInvalidArgument; one that exceeds the
// limits errdefs.ErrResourceExhausted; errors of r and out are passed on.
func Write(ctx context.Context, out io.WriterAt, r io.Reader, o Options) (Result, error) {
	o.Limits = o.Limits.withDefaults()
	w := &writer{in: &counter{r: r}, out: newOutput(out), tree: newTree(o.Limits)}
	if err := w.readTar(ctx); err != nil {
		return Result{}, err
	}
	if err := ctx.Err(); err != nil {
		return Result{}, err
	}
	if o.Verify != nil {
		if err := o.Verify(); err != nil {
			return Result{}, err
		}
	}
	res, err := w.finish(out, o)
	if err != nil {
		return Result{}, err
	}
	res.Dropped = w.dropped
	return res, nil
}

func (l Limits) withDefaults() Limits {
	d := DefaultLimits()
	if l.Entries == 0 {
		l.Entries = d.Entries
	}
	if l.Metadata == 0 {
		l.Metadata = d.Metadata
	}
	if l.Sparse == 0 {
		l.Sparse = d.Sparse
	}
	l.Metadata = min(l.Metadata, maxText)
	return l
}

type writer struct {
	in      *counter
	out     *output
	tree    *tree
	data    int64 // bytes of files' data so far
	dropped int
}

// counter counts what was read of the tar, and remembers how the stream failed.
type counter struct {
	r   io.Reader
	n   int64
	err error
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	if err != nil && err != io.EOF {
		c.err = err
	}
	return n, err
}

// readError tells a stream that failed, which may do better another time, from a tar
// that is malformed.
func (w *writer) readError(err error) error {
	if w.in.err != nil {
		return w.in.err
	}
	return fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
}

func (w *writer) readTar(ctx context.Context) error {
	tr := tar.NewReader(w.in)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("read tar: %w", w.readError(err))
		}
		if err := w.entry(ctx, h, tr); err != nil {
			return fmt.Errorf("entry %.200q: %w", h.Name, err)
		}
	}
	// What follows the end mark is padding, and part of the digest.
	if _, err := io.Copy(io.Discard, w.in); err != nil {
		return fmt.Errorf("read tar: %w", w.readError(err))
	}
	return nil
}

const (
	whiteoutPrefix = ".wh."
	whiteoutMeta   = ".wh..wh."
	whiteoutOpaque = ".wh..wh..opq"
)

// entry adds one header and its data.
func (w *writer) entry(ctx context.Context, h *tar.Header, data io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	parts, err := cleanPath(h.Name)
	if err != nil {
		return err
	}
	if len(parts) == 0 {
		return w.rootEntry(h)
	}
	for i, p := range parts {
		if strings.HasPrefix(p, whiteoutMeta) && p != whiteoutOpaque {
			return nil // bookkeeping of aufs
		}
		if strings.HasPrefix(p, whiteoutPrefix) && i < len(parts)-1 {
			return fmt.Errorf("below a whiteout: %w", errdefs.ErrInvalidArgument)
		}
	}
	dir, err := w.tree.dir(parts[:len(parts)-1], true)
	if err != nil {
		return err
	}
	name := parts[len(parts)-1]
	if deleted, ok := strings.CutPrefix(name, whiteoutPrefix); ok {
		return w.whiteout(dir, name, deleted)
	}
	n, err := w.newNode(h)
	if err != nil {
		return err
	}
	if h.Typeflag == tar.TypeLink {
		return w.tree.link(dir, name, h.Linkname, n)
	}
	if n.mode&unix.S_IFMT == unix.S_IFREG && h.Size > 0 {
		if n.block, err = w.out.block(); err != nil {
			return err
		}
		err := w.out.readFrom(ctx, data, h.Size, w.budget)
		if bad, ok := errors.AsType[*dataError](err); ok {
			return fmt.Errorf("read data: %w", w.readError(bad.err))
		}
		if err != nil {
			return err
		}
	}
	return w.add(dir, name, n)
}

func (w *writer) rootEntry(h *tar.Header) error {
	if h.Typeflag != tar.TypeDir {
		return fmt.Errorf("root is not a directory: %w", errdefs.ErrInvalidArgument)
	}
	n, err := w.newNode(h)
	if err != nil {
		return err
	}
	return w.tree.become(w.tree.root, n)
}

func (w *writer) whiteout(dir *node, name, deleted string) error {
	switch {
	case name == whiteoutOpaque:
		dir.opaque = true
		return nil
	case deleted == "" || deleted == "." || deleted == "..":
		return fmt.Errorf("whiteout of nothing: %w", errdefs.ErrInvalidArgument)
	}
	return w.tree.whiteOut(dir, deleted)
}

func (w *writer) add(dir *node, name string, n *node) error {
	if old := w.tree.child(dir, name); old != nil && old.isDir() && n.isDir() {
		return w.tree.become(old, n)
	}
	return w.tree.put(dir, name, n)
}

func (w *writer) budget(n int) error {
	w.data += int64(n)
	if w.data-w.in.n > w.tree.limits.Sparse {
		return fmt.Errorf("holes of more than %d bytes: %w", w.tree.limits.Sparse, errdefs.ErrResourceExhausted)
	}
	return nil
}

// newNode translates a header. Of a hard link it has the attributes, and no type.
func (w *writer) newNode(h *tar.Header) (*node, error) {
	n := w.tree.newNode()
	n.mode = uint16(h.Mode & 0o7777)
	if err := n.setType(h); err != nil {
		return nil, err
	}
	if h.Uid < 0 || h.Uid >= math.MaxUint32 || h.Gid < 0 || h.Gid >= math.MaxUint32 {
		return nil, fmt.Errorf("owner %d:%d: %w", h.Uid, h.Gid, errdefs.ErrInvalidArgument)
	}
	n.uid, n.gid = uint32(h.Uid), uint32(h.Gid)
	n.mtime, n.nsec = h.ModTime.Unix(), uint32(h.ModTime.Nanosecond())
	attrs, dropped, err := readXattrs(h.PAXRecords)
	if err != nil {
		return nil, err
	}
	n.setXattrs(attrs)
	w.dropped += dropped
	return n, w.tree.charge(0, len(h.Linkname)+xattrSize(attrs))
}

func (n *node) setType(h *tar.Header) error {
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		n.mode |= unix.S_IFREG
		n.size = uint64(h.Size)
	case tar.TypeDir:
		n.mode |= unix.S_IFDIR
		n.nlink = 2
		n.own()
	case tar.TypeSymlink:
		n.mode = unix.S_IFLNK | 0o777 // Linux has no other
		if h.Linkname == "" || len(h.Linkname) > maxTarget || strings.ContainsRune(h.Linkname, 0) {
			return fmt.Errorf("symbolic link to %.80q: %w", h.Linkname, errdefs.ErrInvalidArgument)
		}
		n.own().target = strings.Clone(h.Linkname)
		n.size = uint64(len(h.Linkname))
	case tar.TypeChar, tar.TypeBlock:
		if h.Devmajor < 0 || h.Devmajor > 0xfff || h.Devminor < 0 || h.Devminor > 0xfffff {
			return fmt.Errorf("device %d:%d: %w", h.Devmajor, h.Devminor, errdefs.ErrInvalidArgument)
		}
		n.mode |= unix.S_IFCHR
		if h.Typeflag == tar.TypeBlock {
			n.mode = n.mode&^unix.S_IFMT | unix.S_IFBLK
		}
		if h.Typeflag == tar.TypeChar && h.Devmajor == 0 && h.Devminor == 0 {
			return fmt.Errorf("character device 0:0, which overlayfs takes for a whiteout: %w", errdefs.ErrInvalidArgument)
		}
		major, minor := uint32(h.Devmajor), uint32(h.Devminor)
		n.rdev = minor&0xff | major<<8 | minor&^0xff<<12 // new_encode_dev of the kernel
	case tar.TypeFifo:
		n.mode |= unix.S_IFIFO
	case tar.TypeLink:
	default:
		return fmt.Errorf("entry of type %q: %w", h.Typeflag, errdefs.ErrInvalidArgument)
	}
	return nil
}
