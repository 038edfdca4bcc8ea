package erofs

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"

	"golang.org/x/sys/unix"
)

// rootOffset is where the root's inode lies in the inode area. Its number has only 16
// bits in the superblock, hence the front; and inode number 0 would make readdir(3)
// skip "..", hence not the very front.
const rootOffset = inodeSize

// layout places the inodes and then writes them. Directories name inodes by number,
// so all have their place before the first is written.
type layout struct {
	tree    *tree
	order   []uint32 // ids of nodes
	end     uint64   // of the inode area so far
	blocks  uint32   // of directories and targets that are not inline
	implied bool     // there is such a directory
}

// finish writes everything behind the data, and the superblock as the last of all.
func (w *writer) finish(out io.WriterAt, o Options) (Result, error) {
	start, err := w.out.block()
	if err != nil {
		return Result{}, err
	}
	l := newLayout(w.tree)
	if err := l.placeAll(); err != nil {
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
	if l.implied {
		nameImplied(sb)
	}
	if _, err := out.WriteAt(sb, 0); err != nil {
		return Result{}, fmt.Errorf("write superblock: %w", err)
	}
	return Result{Size: int64(whole) * BlockSize, Inodes: uint64(len(l.order))}, nil
}

func newLayout(t *tree) *layout {
	return &layout{tree: t, order: make([]uint32, 0, t.count), end: rootOffset}
}

// placeAll gives every inode its place, level by level, so that the inodes of one
// directory lie together.
func (l *layout) placeAll() error {
	if err := l.place(l.tree.root); err != nil {
		return err
	}
	for i := 0; i < len(l.order); i++ {
		n := l.tree.node(l.order[i])
		if !n.isDir() {
			continue
		}
		for _, c := range n.more.slots {
			if n := l.tree.node(c.node); !n.placed { // "." and ".." are
				if err := l.place(n); err != nil {
					return fmt.Errorf("%.80q: %w", l.tree.text.at(c.name), err)
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
		l.tree.sort(n)
		n.size = uint64(l.tree.dirSize(n))
		if n.opaque || n.overDelete {
			n.setXattrs(mergeXattrs(n.xattrs(), []xattr{{opaqueXattr, "y"}}))
		}
		if n.implied {
			n.setXattrs(mergeXattrs(n.xattrs(), []xattr{{ImpliedXattr, "y"}}))
			l.implied = true
		}
	}
	attrs := xattrSize(n.xattrs())
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
	n.nid = uint32(l.end / slotSize)
	l.end = (l.end + need + slotSize - 1) &^ (slotSize - 1)
	if n.spills() {
		n.block = l.blocks // relative until it is written
		l.blocks += uint32((n.size + BlockSize - 1) / BlockSize)
	}
	l.order = append(l.order, n.id)
	return nil
}

// spills: the inode has content of its own that is not inline.
func (n *node) spills() bool { return (n.isDir() || n.isSymlink()) && !n.inline }

// content is what a directory or symbolic link holds.
func (l *layout) content(n *node) []byte {
	if n.isDir() {
		return l.tree.dirents(n)
	}
	return []byte(n.more.target)
}

// write writes the inodes and, from block spill on, what did not fit beside them.
func (l *layout) write(out *output, spill uint32) error {
	if err := l.writeInodes(out, spill); err != nil {
		return err
	}
	for _, id := range l.order {
		n := l.tree.node(id)
		if !n.spills() {
			continue
		}
		if err := out.write(l.content(n)); err != nil {
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
	for i, id := range l.order {
		n := l.tree.node(id)
		if n.spills() {
			n.block += spill
		}
		b = append(b[:0], make([]byte, uint64(n.nid)*slotSize-at)...)
		b = appendXattrs(n.appendInode(b, uint32(i+1)), n.xattrs())
		if n.inline {
			b = append(b, l.content(n)...)
		}
		if err := o.write(b); err != nil {
			return err
		}
		at += uint64(len(b))
	}
	return o.align()
}

// appendInode encodes struct erofs_inode_extended; ino is what 32 bits show for the
// inode's number.
func (n *node) appendInode(b []byte, ino uint32) []byte {
	format := uint16(extended | layoutPlain)
	if n.inline {
		format = extended | layoutInline
	}
	count, _ := xattrCount(xattrSize(n.xattrs())) // checked when placed
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
	le.PutUint32(i[20:], ino)
	le.PutUint32(i[24:], n.uid)
	le.PutUint32(i[28:], n.gid)
	le.PutUint64(i[32:], uint64(n.mtime))
	le.PutUint32(i[40:], n.nsec)
	le.PutUint32(i[44:], n.nlink)
	return append(b, i[:]...)
}

// dirSize is the size of a sorted directory: full blocks, each with as many entries as
// fit, and the used part of the last.
func (t *tree) dirSize(dir *node) int {
	size, used := 0, 0
	for _, c := range dir.more.slots {
		entry := direntSize + len(t.text.at(c.name))
		if used+entry > BlockSize {
			size += BlockSize
			used = 0
		}
		used += entry
	}
	return size + used
}

// dirents encodes a directory. Each block has its entries first and their names after.
func (t *tree) dirents(dir *node) []byte {
	list := dir.more.slots
	b := make([]byte, 0, dir.size)
	for len(list) > 0 {
		count, used := 0, 0
		for count < len(list) && used+direntSize+len(t.text.at(list[count].name)) <= BlockSize {
			used += direntSize + len(t.text.at(list[count].name))
			count++
		}
		if len(b)%BlockSize != 0 {
			b = append(b, make([]byte, BlockSize-len(b)%BlockSize)...)
		}
		nameoff := count * direntSize
		for _, c := range list[:count] {
			n := t.node(c.node)
			b = binary.LittleEndian.AppendUint64(b, uint64(n.nid))
			b = binary.LittleEndian.AppendUint16(b, uint16(nameoff))
			b = append(b, n.fileType(), 0)
			nameoff += len(t.text.at(c.name))
		}
		for _, c := range list[:count] {
			b = append(b, t.text.at(c.name)...)
		}
		list = list[count:]
	}
	return b
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
