// Package rmtree removes trees that somebody else has filled, a container for instance,
// whatever stands in them: files can be immutable, and directories so deep in each other that
// there is no path to them and no descriptor for each. No link is followed.
package rmtree

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// Remove removes the file or tree at path. Nobody may change the tree meanwhile. That it is not
// there is no error.
func Remove(path string) error {
	parent, err := os.OpenFile(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer parent.Close()
	if err := RemoveAt(parent, filepath.Base(path)); err != nil {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	return nil
}

// RemoveAt is Remove for a name in a directory, which may be open for its path only.
func RemoveAt(dir *os.File, name string) error {
	r := remover{}
	return r.remove(dir, name, 0)
}

const (
	// liftDepth is how deep the removal goes. What lies deeper is lifted to the top first, where
	// it is no deeper than the rest.
	liftDepth = 32
	// namesAtOnce of a directory are read before they are removed.
	namesAtOnce = 1024
)

type remover struct {
	top    *os.File
	lifted int // directories
}

func (r *remover) remove(dir *os.File, name string, depth int) error {
	err := unlink(dir, name, 0)
	if !errors.Is(err, unix.EISDIR) {
		return err
	}
	err = unlink(dir, name, unix.AT_REMOVEDIR)
	if !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) {
		return err
	}
	if depth > liftDepth {
		return r.lift(dir, name)
	}
	if err := r.empty(dir, name, depth); err != nil {
		return err
	}
	return unlink(dir, name, unix.AT_REMOVEDIR)
}

// empty removes all that is in a directory.
func (r *remover) empty(dir *os.File, name string, depth int) error {
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open directory: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	if depth == 0 {
		r.top = f
	}
	for {
		// From its beginning again: what was lifted here meanwhile may lie anywhere.
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return fmt.Errorf("read directory: %w", err)
		}
		names, err := f.Readdirnames(namesAtOnce)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read directory: %w", err)
		}
		for _, n := range names {
			if err := r.remove(f, n, depth+1); err != nil {
				return err
			}
		}
	}
}

// lift moves a directory to the top, under a name that nothing there has.
func (r *remover) lift(dir *os.File, name string) error {
	for {
		r.lifted++
		to := ".lifted-" + strconv.Itoa(r.lifted)
		err := freed(dir, name, func() error {
			return unix.Renameat2(int(dir.Fd()), name, int(r.top.Fd()), to, unix.RENAME_NOREPLACE)
		})
		if !errors.Is(err, unix.EEXIST) {
			return err
		}
	}
}

// unlink takes a name away. That it is not there is no error.
func unlink(dir *os.File, name string, flags int) error {
	err := freed(dir, name, func() error { return unix.Unlinkat(int(dir.Fd()), name, flags) })
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// freed does something with a name, again without the flags that keep it from being removed
// if it has such, or its directory.
func freed(dir *os.File, name string, do func() error) error {
	err := do()
	if !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EACCES) {
		return err
	}
	clearFlags(dir, ".")
	clearFlags(dir, name)
	return do()
}

// The inode flags that keep a file from being removed (ioctl_iflags(2)).
const immutable, appendOnly = 0x10, 0x20

func clearFlags(dir *os.File, name string) {
	var st unix.Stat_t
	if unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
		return
	}
	if kind := st.Mode & unix.S_IFMT; kind != unix.S_IFREG && kind != unix.S_IFDIR {
		return // others have no flags, and devices are not to be opened
	}
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer func() { _ = unix.Close(fd) }()
	flags, err := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
	if err == nil && flags&(immutable|appendOnly) != 0 {
		_ = unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, int(flags&^(immutable|appendOnly)))
	}
}
