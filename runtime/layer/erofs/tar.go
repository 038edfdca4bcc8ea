package erofs

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// CheckTree reads all metadata and tells whether it makes a tree within the limits. The
// error wraps errdefs.ErrDataLoss if it does not.
func (i *Image) CheckTree(l Limits) error {
	_, err := i.read(newTree(l.withDefaults()), 0)
	return err
}

// WriteTar writes the image as the tar of a layer (OCI image specification, "Image Layer
// Filesystem Changeset"): whiteouts and opaque directories as the names that begin with
// .wh., attributes as PAX records. Names are sorted, so that equal images make equal tars,
// and Write makes the same image of the tar again, but for its UUID.
func (i *Image) WriteTar(ctx context.Context, to io.Writer, l Limits) error {
	tree := newTree(l.withDefaults())
	root, err := i.read(tree, 0)
	if err != nil {
		return err
	}
	t := &untar{image: i, tree: tree, out: tar.NewWriter(to), buf: make([]byte, bufferSize), named: map[*node]string{}}
	if err := t.dir(ctx, "./", root); err != nil {
		return err
	}
	if err := t.out.Close(); err != nil {
		return fmt.Errorf("end tar: %w", err)
	}
	return nil
}

// maxTarPath bounds what a damaged image can make of directories in directories. A sound
// one has paths longer than maxPath only through symbolic links of its tar.
const maxTarPath = 16 * maxPath

// untar is Write the other way round.
type untar struct {
	image *Image
	tree  *tree
	out   *tar.Writer
	buf   []byte
	named map[*node]string // files by their first name, for hard links
}

func (t *untar) dir(ctx context.Context, name string, n *node) error {
	if !n.implied || n.more.used == 0 {
		if err := t.header(name, n); err != nil {
			return err
		}
	}
	within := strings.TrimPrefix(name, "./")
	if n.opaque {
		if err := t.mark(within + whiteoutOpaque); err != nil {
			return err
		}
	}
	text := &t.tree.text
	children := make([]child, 0, n.more.used)
	for c := range t.tree.children(n) {
		children = append(children, c)
	}
	slices.SortFunc(children, func(a, b child) int { return bytes.Compare(text.at(a.name), text.at(b.name)) })
	for _, c := range children {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := t.entry(ctx, within, string(text.at(c.name)), t.tree.node(c.node)); err != nil {
			return err
		}
	}
	return nil
}

func (t *untar) entry(ctx context.Context, dir, name string, n *node) error {
	full := dir + name
	switch {
	case len(full) > maxTarPath:
		return torn("name of %d bytes", len(full))
	case n.isDir():
		return t.dir(ctx, full+"/", n)
	case n.whiteout:
		return t.mark(dir + whiteoutPrefix + name)
	case t.named[n] != "":
		// Whoever extracts it may give the file what its last entry says.
		h := attributes(full, n)
		h.Typeflag, h.Linkname = tar.TypeLink, t.named[n]
		return t.write(h)
	}
	if n.nlink > 1 {
		t.named[n] = full
	}
	if err := t.header(full, n); err != nil || n.mode&unix.S_IFMT != unix.S_IFREG {
		return err
	}
	return t.data(ctx, n)
}

// mark writes one of the empty files that stand for deletions.
func (t *untar) mark(name string) error {
	return t.write(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o600, ModTime: time.Unix(0, 0)})
}

// attributes are what the entries of all types say.
func attributes(name string, n *node) *tar.Header {
	h := &tar.Header{
		Name: name, Mode: int64(n.mode & 0o7777), Uid: int(n.uid), Gid: int(n.gid),
		ModTime: time.Unix(n.mtime, int64(n.nsec)), PAXRecords: map[string]string{},
	}
	for _, a := range n.xattrs() {
		h.PAXRecords[paxXattr+a.name] = a.value
	}
	return h
}

func (t *untar) header(name string, n *node) error {
	h := attributes(name, n)
	switch n.mode & unix.S_IFMT {
	case unix.S_IFDIR:
		h.Typeflag = tar.TypeDir
	case unix.S_IFLNK:
		h.Typeflag, h.Linkname = tar.TypeSymlink, n.more.target
	case unix.S_IFCHR, unix.S_IFBLK:
		h.Typeflag = tar.TypeChar
		if n.mode&unix.S_IFMT == unix.S_IFBLK {
			h.Typeflag = tar.TypeBlock
		}
		h.Devmajor = int64(n.rdev >> 8 & 0xfff)
		h.Devminor = int64(n.rdev&0xff | n.rdev>>12&0xfff00)
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	default:
		h.Typeflag, h.Size = tar.TypeReg, int64(n.size)
	}
	return t.write(h)
}

func (t *untar) write(h *tar.Header) error {
	h.Format = tar.FormatPAX // the one that has room for all there is
	if err := t.out.WriteHeader(h); err != nil {
		return fmt.Errorf("write entry %.80q: %w", path.Clean(h.Name), err)
	}
	return nil
}

// data copies a file's content.
func (t *untar) data(ctx context.Context, n *node) error {
	from := io.NewSectionReader(t.image.r, int64(n.block)*BlockSize, int64(n.size))
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		c, err := io.ReadFull(from, t.buf)
		if _, err := t.out.Write(t.buf[:c]); err != nil {
			return fmt.Errorf("write file: %w", err)
		}
		switch err {
		case nil:
			continue
		case io.EOF, io.ErrUnexpectedEOF:
			if at, _ := from.Seek(0, io.SeekCurrent); at < int64(n.size) {
				return torn("file ends at byte %d of %d", at, n.size)
			}
			return nil
		}
		return fmt.Errorf("read file: %w", err)
	}
}
