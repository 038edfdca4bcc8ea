package erofs

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"slices"

	"golang.org/x/sys/unix"
)

// rootOffset is where the root's inode lies in the inode area. Its number has only 16
// bits in the superblock, hence the front; and inode number 0 would make readdir(3)
// skip "..", hence not the very front.
const rootOffset = inodeSize

// layout places the inodes and then writes them. Directories name inodes by number,
// so all have their place before the first is written.
type layout struct {
	order  []*node
	end    uint64 // of the inode area so far
	blocks uint32 // of directories and targets that are not inline
}

// finish writes everything behind the data, and the superblock as the last of all.
func (w *writer) finish(out io.WriterAt, o Options) (Result, error) {
	start, err := w.out.block()
	if err != nil {
		return Result{}, err
	}
	l := &layout{end: rootOffset}
	if err := l.placeAll(w.tree.root); err != nil {
		return Result{}, err
	}
	inodeBlocks := (l.end + BlockSize - 1) / BlockSize
	if err := l.write(w.out, start+uint32(inodeBlocks)); err != nil {
		return Result{}, err
	}
	blocks, err := w.out.block()
	if err != nil {
		return Result{}, err
	}
	if err := w.out.flush(); err != nil {
		return Result{}, err
	}
	whole := aligned(uint64(blocks), uint64(o.Align))
	if whole > math.MaxUint32 {
		return Result{}, tooLarge()
	}
	sb := superblock(rootOffset/slotSize, uint64(len(l.order)), uint32(whole), start, o.UUID)
	if _, err := out.WriteAt(sb, 0); err != nil {
		return Result{}, fmt.Errorf("write superblock: %w", err)
	}
	return Result{Size: int64(whole) * BlockSize, Inodes: uint64(len(l.order))}, nil
}

// placeAll gives every inode its place, level by level, so that the inodes of one
// directory lie together.
func (l *layout) placeAll(root *node) error {
	if err := l.place(root); err != nil {
		return err
	}
	for i := 0; i < len(l.order); i++ {
		n := l.order[i]
		if !n.isDir() {
			continue
		}
		for _, name := range n.names() {
			if c := n.children[name]; c != nil && !c.placed && name != "." && name != ".." {
				if err := l.place(c); err != nil {
					return fmt.Errorf("%.80q: %w", name, err)
				}
			}
		}
	}
	return nil
}

// place puts one inode behind the last. An inode and what is inline with it must not
// cross a block; only xattrs that are larger than a block may.
func (l *layout) place(n *node) error {
	if n.isDir() {
		n.size = uint64(dirSize(n.names()))
		if n.opaque || n.overDelete {
			n.xattrs = mergeXattrs(n.xattrs, []xattr{{opaqueXattr, "y"}})
		}
	}
	attrs := xattrSize(n.xattrs)
	if _, err := xattrCount(attrs); err != nil {
		return err
	}
	need := uint64(inodeSize + attrs)
	if (n.isDir() || n.isSymlink()) && need+n.size <= BlockSize {
		n.inline = true
		need += n.size
	}
	if room := BlockSize - l.end%BlockSize; need > room {
		l.end += room
	}
	n.placed = true
	n.offset = l.end
	n.ino = uint32(len(l.order) + 1)
	l.end = (l.end + need + slotSize - 1) &^ (slotSize - 1)
	if n.spills() {
		n.block = l.blocks // relative until it is written
		l.blocks += uint32((n.size + BlockSize - 1) / BlockSize)
	}
	l.order = append(l.order, n)
	return nil
}

// spills: the inode has content of its own that is not inline.
func (n *node) spills() bool { return (n.isDir() || n.isSymlink()) && !n.inline }

// content is what a directory or symbolic link holds.
func (n *node) content() []byte {
	if n.isDir() {
		return n.dirents()
	}
	return []byte(n.target)
}

// write writes the inodes and, from block spill on, what did not fit beside them.
func (l *layout) write(out *output, spill uint32) error {
	if err := l.writeInodes(out, spill); err != nil {
		return err
	}
	for _, n := range l.order {
		if !n.spills() {
			continue
		}
		if err := out.write(n.content()); err != nil {
			return err
		}
		if err := out.align(); err != nil {
			return err
		}
	}
	return nil
}

// writeInodes writes the inode area; spilled blocks begin at block spill.
func (l *layout) writeInodes(o *output, spill uint32) error {
	at := uint64(0)
	var b []byte
	for _, n := range l.order {
		if n.spills() {
			n.block += spill
		}
		b = append(b[:0], make([]byte, n.offset-at)...)
		b = appendXattrs(n.appendInode(b), n.xattrs)
		if n.inline {
			b = append(b, n.content()...)
		}
		if err := o.write(b); err != nil {
			return err
		}
		at += uint64(len(b))
	}
	return o.align()
}

// appendInode encodes struct erofs_inode_extended.
func (n *node) appendInode(b []byte) []byte {
	format := uint16(extended | layoutPlain)
	if n.inline {
		format = extended | layoutInline
	}
	count, _ := xattrCount(xattrSize(n.xattrs)) // checked when placed
	u := n.block
	if f := n.mode & unix.S_IFMT; f == unix.S_IFCHR || f == unix.S_IFBLK {
		u = n.rdev
	}
	le := binary.LittleEndian
	var i [inodeSize]byte
	le.PutUint16(i[0:], format)
	le.PutUint16(i[2:], count)
	le.PutUint16(i[4:], n.mode)
	le.PutUint64(i[8:], n.size)
	le.PutUint32(i[16:], u)
	le.PutUint32(i[20:], n.ino)
	le.PutUint32(i[24:], n.uid)
	le.PutUint32(i[28:], n.gid)
	le.PutUint64(i[32:], uint64(n.mtime))
	le.PutUint32(i[40:], n.nsec)
	le.PutUint32(i[44:], n.nlink)
	return append(b, i[:]...)
}

// names are a directory's, "." and ".." included, in the order of the format.
func (n *node) names() []string {
	names := make([]string, 0, len(n.children)+2)
	names = append(names, ".", "..")
	for name := range n.children {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// dirSize is the size of a directory of these names: full blocks, each with as many
// entries as fit, and the used part of the last.
func dirSize(names []string) int {
	size, used := 0, 0
	for _, name := range names {
		if used+direntSize+len(name) > BlockSize {
			size += BlockSize
			used = 0
		}
		used += direntSize + len(name)
	}
	return size + used
}

// dirents encodes a directory. Each block has its entries first and their names after.
func (n *node) dirents() []byte {
	names := n.names()
	b := make([]byte, 0, n.size)
	for len(names) > 0 {
		count, used := 0, 0
		for count < len(names) && used+direntSize+len(names[count]) <= BlockSize {
			used += direntSize + len(names[count])
			count++
		}
		if len(b)%BlockSize != 0 {
			b = append(b, make([]byte, BlockSize-len(b)%BlockSize)...)
		}
		nameoff := count * direntSize
		for _, name := range names[:count] {
			c := n.entry(name)
			b = binary.LittleEndian.AppendUint64(b, c.offset/slotSize)
			b = binary.LittleEndian.AppendUint16(b, uint16(nameoff))
			b = append(b, c.fileType(), 0)
			nameoff += len(name)
		}
		for _, name := range names[:count] {
			b = append(b, name...)
		}
		names = names[count:]
	}
	return b
}

func (n *node) entry(name string) *node {
	switch name {
	case ".":
		return n
	case "..":
		return n.parent
	}
	return n.children[name]
}

func (n *node) fileType() byte {
	switch n.mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return typeDir
	case unix.S_IFLNK:
		return typeSymlink
	case unix.S_IFCHR:
		return typeChar
	case unix.S_IFBLK:
		return typeBlock
	case unix.S_IFIFO:
		return typeFifo
	}
	return typeRegular
}
