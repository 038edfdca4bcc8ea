package monitor

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
)

// ioctlBytes is ioctl(2) with a structure that x/sys does not know.
func ioctlBytes(fd uintptr, request uint, b []byte) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, uintptr(request), uintptr(unsafe.Pointer(&b[0])))
	if errno != 0 {
		return errno
	}
	return nil
}

func setSize(fd int, s runtime.Size) error {
	return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: s.Height, Col: s.Width})
}
