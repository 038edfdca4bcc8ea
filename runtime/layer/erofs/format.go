package erofs

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/containerd/errdefs"
)

// BlockSize is the unit of the images, in bytes.
const BlockSize = 4096

// Names and figures of fs/erofs/erofs_fs.h.
const (
	superMagic   = 0xE0F5E1E2
	superOffset  = 1024
	superSize    = 128
	blockBits    = 12
	compatSum    = 1 // EROFS_FEATURE_COMPAT_SB_CHKSUM
	compatMtime  = 2 // EROFS_FEATURE_COMPAT_MTIME
	slotSize     = 32
	inodeSize    = 64 // extended inodes only: 32 bit owners, times per inode
	extended     = 1
	layoutPlain  = 0 << 1
	layoutInline = 2 << 1
	direntSize   = 12
	maxName      = 255
	maxTarget    = BlockSize - 1
	deviceTable  = 8   // EROFS_FEATURE_INCOMPAT_DEVICE_TABLE
	deviceSize   = 128 // of an entry in that table
)

// File types of directory entries.
const (
	typeRegular = 1
	typeDir     = 2
	typeChar    = 3
	typeBlock   = 4
	typeFifo    = 5
	typeSymlink = 7
)

// addDevices notes in block 0 that the image goes on on other devices, each of so many
// blocks, one after the other from a block on. A kernel that is given these devices by
// name finds the blocks there, and one that is not finds them behind the image itself.
func addDevices(block []byte, from uint32, devices []uint32) {
	sb := block[superOffset:]
	le := binary.LittleEndian
	le.PutUint32(sb[80:], deviceTable)
	le.PutUint16(sb[86:], uint16(len(devices)))
	le.PutUint16(sb[88:], (superOffset+superSize)/deviceSize)
	for i, blocks := range devices {
		entry := sb[superSize+i*deviceSize:]
		le.PutUint32(entry[64:], blocks) // behind a tag that nobody needs
		le.PutUint32(entry[68:], from)
		from += blocks
	}
	le.PutUint32(sb[4:], 0)
	le.PutUint32(sb[4:], checksum(sb))
}

// impliedName is the volume's name of an image with implied directories.
const impliedName = "implied-dirs"

// nameImplied notes in block 0 that directories are implied, which is then known without
// reading them.
func nameImplied(block []byte) {
	sb := block[superOffset:]
	copy(sb[64:80], impliedName)
	le := binary.LittleEndian
	le.PutUint32(sb[4:], 0)
	le.PutUint32(sb[4:], checksum(sb))
}

// aligned rounds blocks up to a multiple of bytes; 0 leaves them as they are.
func aligned(blocks, bytes uint64) uint64 {
	step := max(bytes/BlockSize, 1)
	return (blocks + step - 1) / step * step
}

// superblock encodes block 0.
func superblock(root uint16, inodes uint64, blocks, metaStart uint32, uuid [16]byte) []byte {
	block := make([]byte, BlockSize)
	sb := block[superOffset:]
	le := binary.LittleEndian
	le.PutUint32(sb[0:], superMagic)
	le.PutUint32(sb[8:], compatSum|compatMtime)
	sb[12] = blockBits
	le.PutUint16(sb[14:], root)
	le.PutUint64(sb[16:], inodes)
	le.PutUint32(sb[36:], blocks)
	le.PutUint32(sb[40:], metaStart)
	copy(sb[48:64], uuid[:])
	le.PutUint32(sb[4:], checksum(sb))
	return block
}

// checksum is the kernel's: CRC-32C of the rest of the block, without the final
// inversion, the field itself being zero.
func checksum(sb []byte) uint32 {
	return ^crc32.Checksum(sb, crc32.MakeTable(crc32.Castagnoli))
}

// Check tells, by reading one block, whether r holds an image that this package
// finished and nobody cut off: size is r's length in bytes. It does not read the data.
// The error wraps errdefs.ErrDataLoss if the image is torn.
func Check(r io.ReaderAt, size int64) error {
	block := make([]byte, BlockSize)
	if _, err := r.ReadAt(block, 0); err != nil {
		return fmt.Errorf("read superblock: %w: %w", errdefs.ErrDataLoss, err)
	}
	sb := block[superOffset:]
	le := binary.LittleEndian
	if le.Uint32(sb) != superMagic || sb[12] != blockBits {
		return fmt.Errorf("no superblock: %w", errdefs.ErrDataLoss)
	}
	want := le.Uint32(sb[4:])
	le.PutUint32(sb[4:], 0)
	if checksum(sb) != want {
		return fmt.Errorf("superblock's checksum is wrong: %w", errdefs.ErrDataLoss)
	}
	if blocks := int64(le.Uint32(sb[36:])); blocks*BlockSize != size {
		return fmt.Errorf("image has %d bytes, not %d: %w", size, blocks*BlockSize, errdefs.ErrDataLoss)
	}
	return nil
}
