package checkpoint

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Whiteouts of layers (OCI image specification, "Whiteouts").
const (
	whiteoutPrefix = ".wh."
	opaqueWhiteout = ".wh..wh..opq"
)

// The marks that overlayfs leaves in a writable layer: trusted.overlay.*, user.overlay.* in
// a user namespace.
const (
	overlayOpaque   = "overlay.opaque"
	overlayRedirect = "overlay.redirect"
	overlayMetacopy = "overlay.metacopy"
)

// maxHoles is how much of files may be holes, in bytes, all together: the layer has zeros in
// their place, and they cost whoever made them nothing.
const maxHoles = 4 << 30

// maxKept is how many bytes of names are kept: of what is in the directories that are being
// read, and of files with several.
const (
	maxKept      = 128 << 20
	stringHeader = 16
)

// paxXattr is how extended attributes are named in a tar file.
const paxXattr = "SCHILY.xattr."

// WriteRootfs writes the upper directory of an overlay as a layer: what was written, and a
// whiteout for what was removed. Nobody may change it meanwhile; should somebody do so all
// the same, the result is an error or a mixture of both states, never a file from outside.
// Sockets are left out. Whoever wrote there does not decide on the memory that this takes:
// longer paths than Linux can name, more names than fit, and holes of more than 4 GiB are
// errdefs.ErrResourceExhausted.
func WriteRootfs(ctx context.Context, upper string, to io.Writer) error {
	root, err := os.OpenRoot(upper)
	if err != nil {
		return fmt.Errorf("open writable layer: %w", err)
	}
	defer func() { _ = root.Close() }()
	w := &layerWriter{out: tar.NewWriter(contextWriter{ctx, to}), names: map[inode]string{}, maxKept: maxKept}
	err = w.addTree(ctx, place{root, ".", "."})
	if err == nil {
		err = w.out.Close()
	}
	if err != nil {
		return fmt.Errorf("write changes of the root file system: %w", err)
	}
	return nil
}

type inode struct{ dev, ino uint64 }

// place is where a file is: by the directory that it lies in, which is open, so that the
// way there is not gone once for each file; and by its path, as the layer has it.
type place struct {
	dir        *os.Root
	base, path string
}

// layerWriter writes files.
type layerWriter struct {
	out *tar.Writer
	// names are those of files with several, as written first.
	names map[inode]string
	// holes is how much of the files that were written is holes, in bytes.
	holes int64
	// kept is how many bytes names take, these and those of directories.
	kept, maxKept int
}

// addTree adds what is at a place and, in order, what is below.
func (w *layerWriter) addTree(ctx context.Context, at place) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if len(at.path) >= unix.PathMax {
		return fmt.Errorf("path of more than %d bytes, %.100q: %w", unix.PathMax-1, at.path, errdefs.ErrResourceExhausted)
	}
	info, err := at.dir.Lstat(at.base)
	if err == nil {
		err = w.add(at, info)
	}
	if err != nil || !info.IsDir() {
		return err
	}
	dir, err := at.dir.OpenRoot(at.base)
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	kept := w.kept
	names, err := w.list(ctx, dir)
	if err != nil {
		return fmt.Errorf("list %s: %w", at.path, err)
	}
	listed := w.kept - kept
	for _, name := range names {
		if err := w.addTree(ctx, place{dir, name, path.Join(at.path, name)}); err != nil {
			return err
		}
	}
	w.kept -= listed
	return nil
}

// list returns the names in a directory, in order.
func (w *layerWriter) list(ctx context.Context, dir *os.Root) ([]string, error) {
	f, err := dir.Open(".")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for names := []string(nil); ; {
		some, err := f.Readdirnames(1 << 10)
		for _, name := range some {
			if err := w.keep(name); err != nil {
				return nil, err
			}
		}
		names = append(names, some...)
		if errors.Is(err, io.EOF) {
			slices.Sort(names)
			return names, nil
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return nil, err
		}
	}
}

func (w *layerWriter) keep(name string) error {
	w.kept += stringHeader + len(name)
	if w.kept > w.maxKept {
		return fmt.Errorf("names of more than %d bytes: %w", w.maxKept, errdefs.ErrResourceExhausted)
	}
	return nil
}

func (w *layerWriter) add(at place, info fs.FileInfo) error {
	switch mode := info.Mode(); {
	case mode&fs.ModeSocket != 0:
		return nil
	case mode.IsRegular() || mode.IsDir():
		return w.addOpened(at, info)
	case mode&fs.ModeSymlink != 0:
		target, err := at.dir.Readlink(at.base)
		if err != nil {
			return err
		}
		return w.addHeader(at.path, info, target, nil)
	case isWhiteout(info):
		return w.out.WriteHeader(&tar.Header{Name: whiteoutOf(at.path), Typeflag: tar.TypeReg, Mode: 0o600})
	}
	return w.addHeader(at.path, info, "", nil)
}

func whiteoutOf(name string) string {
	dir, base := path.Split(name)
	return dir + whiteoutPrefix + base
}

// isWhiteout: overlayfs marks what is removed with a character device 0/0.
func isWhiteout(info fs.FileInfo) bool {
	st, ok := statOf(info)
	return ok && info.Mode()&fs.ModeCharDevice != 0 && st.Rdev == 0
}

// addOpened adds a file or directory, whose attributes and content are read through one
// descriptor, which is what info describes.
func (w *layerWriter) addOpened(at place, info fs.FileInfo) error {
	name := at.path
	f, err := at.dir.OpenFile(at.base, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	opened, err := f.Stat()
	if err != nil {
		return err
	}
	if !os.SameFile(info, opened) || info.Mode().Type() != opened.Mode().Type() {
		return fmt.Errorf("%s has become another file: %w", name, errdefs.ErrAborted)
	}
	attributes, err := xattrs(f)
	if err != nil {
		return fmt.Errorf("read attributes of %s: %w", name, err)
	}
	opaque, err := overlayMarks(name, attributes)
	if err != nil {
		return err
	}
	if err := w.addHeader(name, opened, "", attributes); err != nil {
		return err
	}
	if opaque {
		return w.out.WriteHeader(&tar.Header{Name: path.Join(name, opaqueWhiteout), Typeflag: tar.TypeReg, Mode: 0o600})
	}
	if !opened.Mode().IsRegular() || w.first(name, opened) != name {
		return nil
	}
	if st, ok := statOf(opened); ok {
		w.holes += max(0, opened.Size()-512*st.Blocks)
	}
	if w.holes > maxHoles {
		return fmt.Errorf("%s and others have holes of more than %d bytes: %w", name, int64(maxHoles), errdefs.ErrResourceExhausted)
	}
	if _, err := io.CopyN(w.out, f, opened.Size()); err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	return nil
}

// first is the name under which a file was added first: content comes with that alone.
func (w *layerWriter) first(name string, info fs.FileInfo) string {
	if st, ok := statOf(info); ok && st.Nlink > 1 {
		return w.names[inode{st.Dev, st.Ino}]
	}
	return name
}

func (w *layerWriter) addHeader(name string, info fs.FileInfo, target string, attributes map[string]string) error {
	h, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return err
	}
	h.Name, h.Uname, h.Gname, h.Format = name, "", "", tar.FormatPAX
	h.AccessTime, h.ChangeTime = time.Time{}, time.Time{}
	if info.IsDir() {
		h.Name += "/"
	}
	if st, ok := statOf(info); ok && !info.IsDir() && st.Nlink > 1 {
		at := inode{st.Dev, st.Ino}
		if first, ok := w.names[at]; ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
			attributes = nil
		} else {
			if err := w.keep(name); err != nil {
				return err
			}
			w.names[at] = name
		}
	}
	for key, value := range attributes {
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords[paxXattr+key] = value
	}
	return w.out.WriteHeader(h)
}

// overlayMarks takes overlayfs' own attributes out of a file's, and tells whether a
// directory hides what is below it. A mark that says that the content is elsewhere is
// refused: the layer would lie.
func overlayMarks(name string, attributes map[string]string) (opaque bool, err error) {
	for _, kind := range []string{"trusted.", "user."} {
		opaque = opaque || attributes[kind+overlayOpaque] == "y"
		for _, elsewhere := range []string{overlayRedirect, overlayMetacopy} {
			if _, ok := attributes[kind+elsewhere]; ok {
				return false, fmt.Errorf("%s has its content in another layer (%s%s): %w", name, kind, elsewhere, errdefs.ErrFailedPrecondition)
			}
		}
		for key := range attributes {
			if strings.HasPrefix(key, kind+"overlay.") {
				delete(attributes, key)
			}
		}
	}
	return opaque, nil
}

// xattrs reads the extended attributes of an open file.
func xattrs(f *os.File) (map[string]string, error) {
	fd := int(f.Fd())
	list, err := grow(func(b []byte) (int, error) { return unix.Flistxattr(fd, b) })
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	all := map[string]string{}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(list), "\x00"), "\x00") {
		if name == "" {
			continue
		}
		value, err := grow(func(b []byte) (int, error) { return unix.Fgetxattr(fd, name, b) })
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		all[name] = string(value)
	}
	return all, nil
}

// grow calls read with a larger buffer until it has room.
func grow(read func([]byte) (int, error)) ([]byte, error) {
	for b := make([]byte, 1<<10); ; b = make([]byte, 2*len(b)) {
		n, err := read(b)
		if errors.Is(err, unix.ERANGE) && len(b) < 1<<20 {
			continue
		}
		if err != nil {
			return nil, err
		}
		return slices.Clone(b[:n]), nil
	}
}
