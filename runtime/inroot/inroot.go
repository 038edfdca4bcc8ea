// Package inroot opens what lies in trees that somebody else has filled, an image for instance:
// links in them lead nowhere else.
package inroot

import (
	"errors"

	"golang.org/x/sys/unix"
)

// attempts is how often a path is walked. The kernel gives up a walk through ".." where
// something, anywhere on the machine, is mounted or renamed at that moment, since it cannot
// tell whether that leads out: EAGAIN in openat2(2), "the caller may choose to retry". Who
// renames without a pause may keep us from coming through, and not for ever.
const attempts = 1000

// Open opens a path, whose links are resolved as if root, a descriptor of a directory, were the
// root directory of the process. Flags are those of open(2); the descriptor is closed on exec.
// Errors are the kernel's.
func Open(root int, path string, flags int) (fd int, err error) {
	how := unix.OpenHow{Flags: uint64(flags) | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT}
	for range attempts {
		if fd, err = unix.Openat2(root, path, &how); !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			break
		}
	}
	return fd, err
}
