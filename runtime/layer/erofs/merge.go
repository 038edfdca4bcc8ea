package erofs

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// MergeOptions are options for Merge. Zero fields of Limits take the defaults.
type MergeOptions struct {
	Limits Limits
	UUID   [16]byte
	// Note is kept at the end of the metadata, where ReadNote finds it.
	Note []byte
	// Align makes the size of the metadata a multiple of so many bytes, which is one of
	// BlockSize.
	Align int64
}

// MaxDevices is how many layers with data metadata can have that finds them on devices of
// their own: the table of devices lies behind the superblock, in the first block.
const MaxDevices = (BlockSize - superOffset - superSize) / deviceSize

// Merge writes metadata that shows layers, the lowest first, as overlayfs stacks them:
// upper names hide lower ones, whiteouts and opaque directories do their work and are
// gone, directories with the same name are one with the upper one's attributes, hard
// links within a layer are kept. A directory that a
// layer only implies keeps the lower one's attributes, which overlayfs cannot know.
//
// The files' data is not copied. The result mounts as the beginning of a disk on which the
// layers that have data (HasData) follow in the same order, each as long as it is; or, if
// these are no more than MaxDevices, with all of them as devices of their own (mount option
// device). Result.Size is the length of the metadata.
func Merge(ctx context.Context, out io.WriterAt, layers []*Image, o MergeOptions) (Result, error) {
	t := newTree(o.Limits.withDefaults())
	var data uint32 // blocks of layers on the disk
	var devices []uint32
	for i, layer := range layers {
		if err := ctx.Err(); err != nil {
			return Result{}, err
		}
		upper, err := layer.read(t, data)
		if err != nil {
			return Result{}, fmt.Errorf("read layer %d: %w", i, err)
		}
		if i == 0 || upper.opaque {
			t.root = upper
		} else {
			t.stack(t.root, upper)
		}
		if layer.HasData() {
			if layer.blocks > math.MaxUint32-data {
				return Result{}, tooLarge()
			}
			data += layer.blocks
			devices = append(devices, layer.blocks)
		}
	}
	t.settle()
	return t.writeMerged(out, data, devices, o)
}

func tooLarge() error {
	return fmt.Errorf("image is larger than 16 TiB: %w", errdefs.ErrResourceExhausted)
}

// stack puts one directory over another.
func (t *tree) stack(lower, upper *node) {
	if !upper.implied {
		lower.take(upper)
	}
	// Who unpacks a layer changes the directory, now. Overlayfs shows the upper one's time.
	lower.mtime, lower.nsec = upper.mtime, upper.nsec
	for c, n := range t.children(upper) {
		name := string(t.text.at(c.name))
		old := t.child(lower, name)
		if old != nil && old.isDir() && n.isDir() && !n.opaque {
			t.stack(old, n)
			continue
		}
		if n.isDir() {
			n.more.parent = lower
			if n.implied && old != nil && old.isDir() {
				n.take(old) // only its content is hidden
			}
		}
		t.set(lower, name, n)
	}
}

// take takes over a directory's attributes, but for its time.
func (n *node) take(from *node) {
	n.mode, n.uid, n.gid = from.mode, from.uid, from.gid
	n.more.xattrs, n.implied = from.more.xattrs, from.implied
}

// settle removes the marks and counts links anew.
func (t *tree) settle() {
	counted := map[*node]bool{}
	for queue := []*node{t.root}; len(queue) > 0; {
		dir := queue[0]
		queue = queue[1:]
		dir.opaque, dir.overDelete, dir.implied, dir.nlink = false, false, false, 2
		for _, n := range t.children(dir) {
			switch {
			case n.whiteout:
				n.gone = true
			case n.isDir():
				dir.nlink++
				queue = append(queue, n)
			default:
				if !counted[n] {
					counted[n] = true
					n.nlink = 0
				}
				n.nlink++
			}
		}
	}
}

// writeMerged writes the metadata; the files' blocks, data of them, count from its end.
func (t *tree) writeMerged(w io.WriterAt, data uint32, devices []uint32, o MergeOptions) (Result, error) {
	l := newLayout(t)
	if err := l.placeAll(); err != nil {
		return Result{}, err
	}
	const start = 1 // behind the superblock
	inodes := (l.end + BlockSize - 1) / BlockSize
	note := (uint64(len(o.Note)) + noteTail + BlockSize - 1) / BlockSize
	meta := aligned(start+inodes+uint64(l.blocks)+note, uint64(o.Align))
	if meta+uint64(data) > math.MaxUint32 {
		return Result{}, tooLarge()
	}
	for _, id := range l.order {
		n := t.node(id)
		if n.mode&unix.S_IFMT == unix.S_IFREG && n.size > 0 {
			n.block += uint32(meta)
		}
	}
	out := newOutput(w)
	if err := l.write(out, start+uint32(inodes)); err != nil {
		return Result{}, err
	}
	if err := out.flush(); err != nil {
		return Result{}, err
	}
	if _, err := w.WriteAt(encodeNote(o.Note), int64(meta-note)*BlockSize); err != nil {
		return Result{}, fmt.Errorf("write note: %w", err)
	}
	sb := superblock(rootOffset/slotSize, uint64(len(l.order)), uint32(meta)+data, start, o.UUID)
	if len(devices) > 0 && len(devices) <= MaxDevices {
		addDevices(sb, uint32(meta), devices)
	}
	if _, err := w.WriteAt(sb, 0); err != nil {
		return Result{}, fmt.Errorf("write superblock: %w", err)
	}
	return Result{Size: int64(meta) * BlockSize, Inodes: uint64(len(l.order))}, nil
}

// A note ends its last block, with its length behind it.
const (
	noteTail = 4
	maxNote  = 1 << 20
)

func encodeNote(note []byte) []byte {
	pad := -(len(note) + noteTail) & (BlockSize - 1)
	b := append(make([]byte, pad, pad+len(note)+noteTail), note...)
	return binary.LittleEndian.AppendUint32(b, uint32(len(note)))
}

// ReadNote returns the note of metadata of size bytes that Merge has made, and the length
// in bytes of the disk that the metadata is for. The error wraps errdefs.ErrDataLoss if
// the metadata is torn.
func ReadNote(r io.ReaderAt, size int64) (note []byte, disk int64, err error) {
	var head [superOffset + superSize]byte
	if _, err := r.ReadAt(head[:], 0); err != nil {
		return nil, 0, fmt.Errorf("read superblock: %w: %w", errdefs.ErrDataLoss, err)
	}
	disk = int64(binary.LittleEndian.Uint32(head[superOffset+36:])) * BlockSize
	if err := Check(r, disk); err != nil {
		return nil, 0, err
	}
	var tail [noteTail]byte
	if _, err := r.ReadAt(tail[:], size-noteTail); err != nil {
		return nil, 0, fmt.Errorf("read note: %w: %w", errdefs.ErrDataLoss, err)
	}
	n := int64(binary.LittleEndian.Uint32(tail[:]))
	if n > maxNote || n > size-noteTail-BlockSize || disk < size {
		return nil, 0, torn("note of %d bytes", n)
	}
	note = make([]byte, n)
	if _, err := r.ReadAt(note, size-noteTail-n); err != nil {
		return nil, 0, fmt.Errorf("read note: %w: %w", errdefs.ErrDataLoss, err)
	}
	return note, disk, nil
}
