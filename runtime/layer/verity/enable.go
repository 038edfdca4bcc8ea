package verity

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// enableArg is struct fsverity_enable_arg of linux/fsverity.h.
type enableArg struct {
	version, algorithm, blockSize, _ uint32
	_                                [14]uint64 // no salt, no signature
}

// Enable has the kernel check every read of a file from now on, and makes the file
// immutable but for its removal. f must be open for reading, and nowhere for writing.
// The kernel reads the file once to build its tree. Where the kernel or the file system
// has no fs-verity the error is errdefs.ErrNotImplemented and says which.
func Enable(f *os.File) error {
	arg := enableArg{version: 1, algorithm: 1, blockSize: BlockSize}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.FS_IOC_ENABLE_VERITY, uintptr(unsafe.Pointer(&arg)))
	switch {
	case errno == 0 || errno == unix.EEXIST:
		return nil
	case errors.Is(errno, unix.ENOTTY) || errors.Is(errno, unix.EOPNOTSUPP):
		return fmt.Errorf("enable fs-verity: %w: the kernel needs CONFIG_FS_VERITY, and ext4 the feature (tune2fs -O verity): %w", errdefs.ErrNotImplemented, errno)
	}
	return fmt.Errorf("enable fs-verity: %w", errno)
}

// Measure asks the kernel for the digest that it holds a file to; errdefs.ErrNotFound if
// it checks none.
func Measure(f *os.File) (digest.Digest, error) {
	var d struct {
		algorithm, size uint16
		digest          [64]byte
	}
	d.size = uint16(len(d.digest))
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.FS_IOC_MEASURE_VERITY, uintptr(unsafe.Pointer(&d)))
	switch {
	case errors.Is(errno, unix.ENODATA), errors.Is(errno, unix.ENOTTY), errors.Is(errno, unix.EOPNOTSUPP):
		return "", fmt.Errorf("measure fs-verity: %w: %w", errdefs.ErrNotFound, errno)
	case errno != 0:
		return "", fmt.Errorf("measure fs-verity: %w", errno)
	case d.algorithm != 1 || d.size != hashSize:
		return "", fmt.Errorf("measure fs-verity: %w: algorithm %d", errdefs.ErrFailedPrecondition, d.algorithm)
	}
	return digest.NewDigestFromBytes(digest.SHA256, d.digest[:hashSize]), nil
}
