package guest

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ioctl calls ioctl(2) with a pointer to arg, or null.
func ioctl(f *os.File, request uintptr, arg []byte) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(unsafe.Pointer(unsafe.SliceData(arg))))
	if errno != 0 {
		return errno
	}
	return nil
}
