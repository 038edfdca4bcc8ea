package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync/atomic"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime/rmtree"
	"github.com/cricket-cri/cricket/vmsandbox/agent"
)

// maxGet is how long a file may be that Get reads, in bytes.
const maxGet = 1 << 20

// Put implements agent.Guest. Files before one that fails are written.
func (g *Guest) Put(ctx context.Context, files []agent.File) error {
	for _, f := range files {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := put(f); err != nil {
			return fmt.Errorf("put %s: %w", f.Path, err)
		}
	}
	return nil
}

func put(f agent.File) error {
	p, err := locate(f.Path, true)
	if err != nil {
		return err
	}
	defer p.close()
	switch f.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return putDirectory(p, f)
	case unix.S_IFREG:
		if f.Replace {
			return beside(p, func(tmp place) error { return putFile(tmp, f, unix.O_EXCL) })
		}
		return putFile(p, f, 0)
	case unix.S_IFLNK:
		return beside(p, func(tmp place) error { return putLink(tmp, f) })
	}
	return fmt.Errorf("mode %#o is of no file, directory or symbolic link: %w", f.Mode, errdefs.ErrInvalidArgument)
}

// beside makes something under another name and renames it over p.
func beside(p place, write func(tmp place) error) error {
	tmp := place{dir: p.dir, name: ".cricket-" + strconv.FormatInt(sequence.Add(1), 36)}
	err := write(tmp)
	if err == nil {
		if err = unix.Renameat(p.fd(), tmp.name, p.fd(), p.name); err == nil {
			return nil
		}
		err = fileError(err)
	}
	if err2 := unix.Unlinkat(p.fd(), tmp.name, 0); err2 != nil && !errors.Is(err2, unix.ENOENT) {
		return errors.Join(err, err2)
	}
	return err
}

// sequence makes names of temporary files differ.
var sequence atomic.Int64 //nolint:gochecknoglobals // because the names are those of the whole machine

func putDirectory(p place, f agent.File) error {
	if err := unix.Mkdirat(p.fd(), p.name, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
		return fileError(err)
	}
	fd, err := unix.Openat(p.fd(), p.name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fileError(err)
	}
	defer unix.Close(fd)
	return own(fd, f)
}

// own sets owner and permissions, in this order: a new owner clears bits of the mode.
func own(fd int, f agent.File) error {
	if err := unix.Fchown(fd, int(f.UID), int(f.GID)); err != nil {
		return fileError(err)
	}
	if err := unix.Fchmod(fd, f.Mode&0o7777); err != nil {
		return fileError(err)
	}
	return nil
}

// putFile writes a file. One that is there gets its new content over the old one, so that
// readers never find it empty unless it is to be.
func putFile(p place, f agent.File, flags int) error {
	fd, err := unix.Openat(p.fd(), p.name, unix.O_WRONLY|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC|flags, 0o600)
	if err != nil {
		return fileError(err)
	}
	file := os.NewFile(uintptr(fd), p.name)
	defer file.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fileError(err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return fmt.Errorf("it is there and is not a regular file: %w", errdefs.ErrFailedPrecondition)
	}
	if _, err := file.WriteAt(f.Content, 0); err != nil {
		return fileError(err)
	}
	if err := file.Truncate(int64(len(f.Content))); err != nil {
		return fileError(err)
	}
	return own(fd, f)
}

func putLink(p place, f agent.File) error {
	if err := unix.Symlinkat(string(f.Content), p.fd(), p.name); err != nil {
		return fileError(err)
	}
	if err := unix.Fchownat(p.fd(), p.name, int(f.UID), int(f.GID), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fileError(err)
	}
	return nil
}

// Get implements agent.Guest. Of a symbolic link it gives the target.
func (g *Guest) Get(_ context.Context, path string) (agent.File, error) {
	f, err := get(path)
	if err != nil {
		return agent.File{}, fmt.Errorf("get %s: %w", path, err)
	}
	return f, nil
}

func get(path string) (agent.File, error) {
	p, err := locate(path, false)
	if err != nil {
		return agent.File{}, err
	}
	defer p.close()
	var st unix.Stat_t
	if err := unix.Fstatat(p.fd(), p.name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return agent.File{}, fileError(err)
	}
	out := agent.File{Path: path, Mode: st.Mode, UID: st.Uid, GID: st.Gid}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		target := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(p.fd(), p.name, target)
		if err != nil {
			return agent.File{}, fileError(err)
		}
		out.Content = target[:n]
		return out, nil
	case unix.S_IFREG:
	default:
		return agent.File{}, fmt.Errorf("mode %#o is of no file: %w", st.Mode, errdefs.ErrFailedPrecondition)
	}
	fd, err := unix.Openat(p.fd(), p.name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return agent.File{}, fileError(err)
	}
	file := os.NewFile(uintptr(fd), p.name)
	defer file.Close()
	// It may have become something else in between, or grow for ever.
	if out.Content, err = io.ReadAll(io.LimitReader(file, maxGet+1)); err != nil {
		return agent.File{}, fileError(err)
	}
	if len(out.Content) > maxGet {
		return agent.File{}, fmt.Errorf("it is longer than %d bytes: %w", maxGet, errdefs.ErrResourceExhausted)
	}
	return out, nil
}

// Remove implements agent.Guest. What is not there is not an error.
func (g *Guest) Remove(_ context.Context, paths []string) error {
	var failed []error
	for _, path := range paths {
		if err := remove(path); err != nil && !errdefs.IsNotFound(err) {
			failed = append(failed, fmt.Errorf("remove %s: %w", path, err))
		}
	}
	return errors.Join(failed...)
}

func remove(path string) error {
	p, err := locate(path, false)
	if err != nil {
		return err
	}
	defer p.close()
	return p.remove()
}

// remove takes away what is at a place, whatever it is.
func (p place) remove() error {
	if err := rmtree.RemoveAt(p.dir, p.name); err != nil {
		return fileError(err)
	}
	return nil
}
