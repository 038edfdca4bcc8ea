package erofs

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Image is a finished image of this package, to be read. Only what Write makes is
// understood.
type Image struct {
	r       io.ReaderAt
	root    uint16
	implied bool   // HasImplied
	meta    uint32 // first block of the inode area
	blocks  uint32
}

// Open looks at the superblock of an image of size bytes. The error wraps
// errdefs.ErrDataLoss if the image is torn.
func Open(r io.ReaderAt, size int64) (*Image, error) {
	if err := Check(r, size); err != nil {
		return nil, err
	}
	var sb [superSize]byte
	if _, err := r.ReadAt(sb[:], superOffset); err != nil {
		return nil, fmt.Errorf("read superblock: %w", err)
	}
	le := binary.LittleEndian
	i := &Image{r: r, root: le.Uint16(sb[14:]), implied: string(sb[64:64+len(impliedName)]) == impliedName, blocks: le.Uint32(sb[36:]), meta: le.Uint32(sb[40:])}
	if i.meta == 0 || i.meta >= i.blocks {
		return nil, torn("inode area at block %d of %d", i.meta, i.blocks)
	}
	return i, nil
}

// Blocks is the image's size in blocks.
func (i *Image) Blocks() uint32 { return i.blocks }

// HasData tells whether any file of the image has content.
func (i *Image) HasData() bool { return i.meta > 1 }

func torn(format string, args ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), errdefs.ErrDataLoss)
}

// reader turns an image into a tree again. Whatever the image holds, the result is a
// tree within the limits, or an error.
type reader struct {
	image *Image
	meta  []byte // from the inode area to the end
	tree  *tree
	seen  map[uint64]*node // by inode number
	queue []*node          // directories whose content is still to be read
	dirs  map[*node][]byte
}

// read reads the metadata. Blocks of files are those of the image plus base.
func (i *Image) read(t *tree, base uint32) (*node, error) {
	size := int64(i.blocks-i.meta) * BlockSize
	if size > t.limits.Metadata*2+int64(t.limits.Entries)*2*inodeSize {
		return nil, fmt.Errorf("metadata of %d bytes: %w", size, errdefs.ErrResourceExhausted)
	}
	r := &reader{image: i, meta: make([]byte, size), tree: t, seen: map[uint64]*node{}, dirs: map[*node][]byte{}}
	if _, err := i.r.ReadAt(r.meta, int64(i.meta)*BlockSize); err != nil {
		return nil, fmt.Errorf("read metadata: %w", err)
	}
	root, err := r.inode(uint64(i.root), base)
	if err != nil {
		return nil, err
	}
	if !root.isDir() {
		return nil, torn("root is no directory")
	}
	root.more.parent = root
	for len(r.queue) > 0 {
		dir := r.queue[0]
		r.queue = r.queue[1:]
		if err := r.readDir(dir, base); err != nil {
			return nil, err
		}
		delete(r.dirs, dir)
	}
	return root, nil
}

// inode reads the inode of that number, or returns the node that has been made of it.
func (r *reader) inode(nid uint64, base uint32) (*node, error) {
	if n := r.seen[nid]; n != nil {
		if n.isDir() {
			return nil, torn("directory %d has two names", nid)
		}
		return n, nil
	}
	off := nid * slotSize
	if nid > uint64(len(r.meta)) || off+inodeSize > uint64(len(r.meta)) {
		return nil, torn("inode %d is outside", nid)
	}
	raw := r.meta[off : off+inodeSize]
	le := binary.LittleEndian
	n := r.tree.newNode()
	n.mode, n.size, n.uid, n.gid = le.Uint16(raw[4:]), le.Uint64(raw[8:]), le.Uint32(raw[24:]), le.Uint32(raw[28:])
	n.mtime, n.nsec = int64(le.Uint64(raw[32:])), le.Uint32(raw[40:])
	attrs, rest, err := readInodeXattrs(r.meta[off+inodeSize:], le.Uint16(raw[2:]))
	if err != nil {
		return nil, fmt.Errorf("inode %d: %w", nid, err)
	}
	n.takeXattrs(attrs)
	if err := r.content(n, le.Uint16(raw[0:]), le.Uint32(raw[16:]), rest, base); err != nil {
		return nil, fmt.Errorf("inode %d: %w", nid, err)
	}
	if n.more != nil {
		if err := r.tree.charge(0, len(n.more.target)+xattrSize(n.more.xattrs)); err != nil {
			return nil, err
		}
	}
	r.seen[nid] = n
	return n, nil
}

// takeXattrs keeps overlayfs' marks apart from other attributes.
func (n *node) takeXattrs(attrs []xattr) {
	for _, a := range attrs {
		switch {
		case a.name == opaqueXattr:
			n.opaque = n.opaque || a.value == "y" && n.isDir()
		case a.name == ImpliedXattr:
			n.implied = n.isDir()
		case !strings.HasPrefix(a.name, overlayXattrs):
			n.own().xattrs = append(n.xattrs(), a)
		}
	}
}

// content takes what an inode says of its content; u is its multi-purpose field and
// rest what follows it.
func (r *reader) content(n *node, format uint16, u uint32, rest []byte, base uint32) error {
	if format != extended|layoutPlain && format != extended|layoutInline {
		return torn("format %d", format)
	}
	inline := format == extended|layoutInline
	switch n.mode & unix.S_IFMT {
	case unix.S_IFREG:
		end := uint64(u) + (n.size+BlockSize-1)/BlockSize
		if inline || n.size > 1<<44 || n.size > 0 && (u == 0 || end > uint64(r.image.meta)) {
			return torn("file of %d bytes at block %d", n.size, u)
		}
		if n.size > 0 {
			n.block = u + base
		}
	case unix.S_IFDIR, unix.S_IFLNK:
		return r.ownContent(n, inline, u, rest)
	case unix.S_IFCHR, unix.S_IFBLK:
		n.rdev = u
		n.whiteout = n.mode&unix.S_IFMT == unix.S_IFCHR && u == 0
	case unix.S_IFIFO:
	default:
		return torn("mode %o", n.mode)
	}
	return nil
}

func (r *reader) ownContent(n *node, inline bool, u uint32, rest []byte) error {
	if !inline {
		if u < r.image.meta || u >= r.image.blocks {
			return torn("content at block %d", u)
		}
		rest = r.meta[int64(u-r.image.meta)*BlockSize:]
	}
	if n.size > uint64(len(rest)) {
		return torn("content of %d bytes", n.size)
	}
	rest = rest[:n.size]
	if n.isDir() {
		n.own()
		n.nlink = 2
		r.dirs[n] = rest
		r.queue = append(r.queue, n)
		return nil
	}
	if n.size == 0 || n.size > maxTarget {
		return torn("target of %d bytes", n.size)
	}
	n.own().target = string(rest)
	return nil
}

// readDir gives a directory its children.
func (r *reader) readDir(dir *node, base uint32) error {
	for rest := r.dirs[dir]; len(rest) > 0; {
		block := rest[:min(BlockSize, len(rest))]
		rest = rest[len(block):]
		if len(block) < direntSize {
			return torn("directory of %d bytes", len(block))
		}
		le := binary.LittleEndian
		names := int(le.Uint16(block[8:]))
		if names == 0 || names%direntSize != 0 || names > len(block) {
			return torn("directory with names at %d", names)
		}
		for at := 0; at < names; at += direntSize {
			from, to := int(le.Uint16(block[at+8:])), len(block)
			if at+direntSize < names {
				to = int(le.Uint16(block[at+direntSize+8:]))
			}
			if from < names || from >= to || to > len(block) {
				return torn("name from %d to %d", from, to)
			}
			name := block[from:to]
			if end := bytes.IndexByte(name, 0); end >= 0 {
				name = name[:end]
			}
			if err := r.entry(dir, string(name), le.Uint64(block[at:]), base); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *reader) entry(dir *node, name string, nid uint64, base uint32) error {
	if name == "." || name == ".." {
		return nil
	}
	if name == "" || len(name) > maxName || strings.ContainsRune(name, '/') || r.tree.child(dir, name) != nil {
		return torn("name %.80q in a directory", name)
	}
	n, err := r.inode(nid, base)
	if err != nil {
		return err
	}
	if n.isDir() && nid == uint64(r.image.root) {
		return torn("root has a name")
	}
	return r.tree.put(dir, name, n)
}

// readInodeXattrs decodes the attributes that follow an inode, and returns what follows
// them.
func readInodeXattrs(b []byte, count uint16) (attrs []xattr, rest []byte, err error) {
	if count == 0 {
		return nil, b, nil
	}
	size := xattrHeader + 4*(int(count)-1)
	if size > len(b) {
		return nil, nil, torn("attributes of %d bytes", size)
	}
	if shared := b[4]; shared != 0 {
		return nil, nil, torn("%d shared attributes", shared)
	}
	for at := b[xattrHeader:size]; len(at) > 0; {
		if len(at) < 4 {
			return nil, nil, torn("attribute of %d bytes", len(at))
		}
		nameLen, valueLen := int(at[0]), int(binary.LittleEndian.Uint16(at[2:]))
		full := (4 + nameLen + valueLen + 3) &^ 3
		prefix, ok := xattrPrefix(at[1])
		if full > len(at) || !ok {
			return nil, nil, torn("attribute of %d bytes in name space %d", full, at[1])
		}
		attrs = append(attrs, xattr{prefix + string(at[4:4+nameLen]), string(at[4+nameLen : 4+nameLen+valueLen])})
		at = at[full:]
	}
	return attrs, b[size:], nil
}

func xattrPrefix(index byte) (string, bool) {
	for _, p := range xattrPrefixes {
		if p.index == index {
			return p.prefix, true
		}
	}
	return "", false
}
