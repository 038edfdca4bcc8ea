package guest

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// place is a name in a directory that is held open. Nothing on the way there was a
// symbolic link.
type place struct {
	dir  *os.File
	name string
}

func (p place) close() { p.dir.Close() }

// fd is the directory, for system calls that take a name below one.
func (p place) fd() int { return int(p.dir.Fd()) }

// path names the place for system calls that take no directory. It is good as long as the
// place is open.
func (p place) path() string {
	return "/proc/self/fd/" + strconv.Itoa(p.fd()) + "/" + p.name
}

// locate finds the place of an absolute path below one of the directories that belong to
// containers and volumes. Missing directories on the way are made if build is set. What
// is on the way may be a container's, so that symbolic links are not followed but are an
// error.
func locate(file string, build bool) (place, error) {
	if !path.IsAbs(file) || path.Clean(file) != file || len(file) > unix.PathMax {
		return place{}, fmt.Errorf("path %q is not absolute and clean: %w", file, errdefs.ErrInvalidArgument)
	}
	for _, base := range directories() {
		if rest, ok := strings.CutPrefix(file, base+"/"); ok {
			return descend(base, rest, build)
		}
	}
	return place{}, fmt.Errorf("path %q is not below one of %s: %w", file, strings.Join(directories(), ", "), errdefs.ErrInvalidArgument)
}

// descend walks from base, which nobody else can change, to the last directory of rest.
func descend(base, rest string, build bool) (place, error) {
	const flags = unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Open(base, flags, 0)
	if err != nil {
		return place{}, fmt.Errorf("open %s: %w", base, fileError(err))
	}
	at := base
	for {
		part, below, more := strings.Cut(rest, "/")
		if !more {
			return place{dir: os.NewFile(uintptr(fd), at), name: part}, nil
		}
		at, rest = at+"/"+part, below
		next, err := unix.Openat(fd, part, flags, 0)
		if errors.Is(err, unix.ENOENT) && build {
			if err = unix.Mkdirat(fd, part, 0o755); err == nil || errors.Is(err, unix.EEXIST) {
				next, err = unix.Openat(fd, part, flags, 0)
			}
		}
		unix.Close(fd)
		if err != nil {
			return place{}, fmt.Errorf("open %s: %w", at, fileError(err))
		}
		fd = next
	}
}

// fileError gives an error of a file system a kind.
func fileError(err error) error {
	var kind error = errdefs.ErrInternal
	switch {
	case errors.Is(err, unix.ENOENT):
		kind = errdefs.ErrNotFound
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP), errors.Is(err, unix.EISDIR), errors.Is(err, unix.ENAMETOOLONG), errors.Is(err, unix.EINVAL):
		kind = errdefs.ErrInvalidArgument
	case errors.Is(err, unix.EEXIST):
		kind = errdefs.ErrAlreadyExists
	case errors.Is(err, unix.EBUSY), errors.Is(err, unix.ENOTEMPTY), errors.Is(err, unix.EROFS):
		kind = errdefs.ErrFailedPrecondition
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT), errors.Is(err, unix.ENOMEM), errors.Is(err, unix.EFBIG):
		kind = errdefs.ErrResourceExhausted
	}
	return fmt.Errorf("%w: %w", kind, err)
}
