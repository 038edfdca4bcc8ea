package sandbox

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const (
	// outer and inner are how many directories a walk holds open: the outermost and the
	// innermost of those it is in. Trees that are not deep on purpose have fewer levels.
	outer, inner = 32, 32
	// maxLevels bounds the memory for the levels in between.
	maxLevels = 1 << 20
	// chunk is how much of a directory is read at once.
	chunk = 8 << 10
)

// Parts of what getdents64(2) returns of an entry.
const (
	entryNext = 8
	entrySize = 16
	entryName = 19
)

var errMoved = fmt.Errorf("directories were moved meanwhile: %w", errdefs.ErrAborted)

// walk visits what is in a tree, the root first, depth-first, and stays on its file system.
// A container may change the tree meanwhile, and may have made it as deep and as wide as it
// likes: nothing outside is visited, no link is followed, and what is kept is a few bytes
// for each directory that the walk is in. What is removed meanwhile is passed over. If
// directories are moved (errdefs.ErrAborted) or too deep (errdefs.ErrResourceExhausted), the
// error comes after all that could be visited.
func walk(ctx context.Context, root string, visit func(*unix.Stat_t)) error {
	w := &walker{visit: visit, maxLevels: maxLevels}
	return w.walk(ctx, root)
}

func (w *walker) walk(ctx context.Context, root string) error {
	defer w.close()
	if err := w.begin(root); err != nil {
		return err
	}
	for len(w.levels) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := w.step(); err != nil {
			return err
		}
	}
	return w.missed
}

// walker is a place in a tree. It goes down by the names of directories, which it does not
// keep, and up by those that are still open, or else by "..", if that is where it came from.
type walker struct {
	visit     func(*unix.Stat_t)
	dev       uint64
	levels    []level // the root, and what leads from there to the place
	maxLevels int
	missed    error // why something was not visited
	st        unix.Stat_t
	free      [][]byte // buffers
}

// level is a directory.
type level struct {
	ino  uint64
	next int64    // where its next entry is
	at   *listing // nil: closed, as there are too many below it
}

// listing is an open directory, and what was read of it.
type listing struct {
	fd        int
	buf, rest []byte
}

func (w *walker) begin(root string) error {
	fd, err := w.open(unix.AT_FDCWD, root)
	if err != nil {
		return err
	}
	w.dev = w.st.Dev
	w.push(fd)
	w.visit(&w.st)
	return nil
}

// open opens a directory, which w.st is about then.
func (w *walker) open(at int, name string) (int, error) {
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Openat(at, name, flags|unix.O_NOATIME, 0)
	if errors.Is(err, unix.EPERM) { // that is for who owns it
		fd, err = unix.Openat(at, name, flags, 0)
	}
	if err != nil {
		return -1, fmt.Errorf("open directory: %w", err)
	}
	if err := unix.Fstat(fd, &w.st); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("stat directory: %w", err)
	}
	return fd, nil
}

// push makes the directory that w.st is about the innermost.
func (w *walker) push(fd int) {
	w.levels = append(w.levels, level{ino: w.st.Ino, at: w.listing(fd)})
	if i := len(w.levels) - 1 - inner; i >= outer {
		w.release(&w.levels[i])
	}
}

func (w *walker) listing(fd int) *listing {
	l := &listing{fd: fd}
	if n := len(w.free); n > 0 {
		l.buf, w.free = w.free[n-1], w.free[:n-1]
	} else {
		l.buf = make([]byte, chunk)
	}
	return l
}

func (w *walker) release(l *level) {
	if l.at != nil {
		unix.Close(l.at.fd)
		w.free = append(w.free, l.at.buf)
		l.at = nil
	}
}

func (w *walker) close() {
	for i := range w.levels {
		w.release(&w.levels[i])
	}
}

// step visits the next entry of the innermost directory, and goes into it or, at the end, up.
func (w *walker) step() error {
	dir := &w.levels[len(w.levels)-1]
	name, err := dir.entry()
	if err != nil {
		return err
	}
	switch name {
	case "":
		return w.up()
	case ".", "..":
		return nil
	}
	err = unix.Fstatat(dir.at.fd, name, &w.st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("stat file: %w", err)
	}
	if w.st.Dev != w.dev {
		return nil
	}
	w.visit(&w.st)
	if w.st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	return w.down(dir.at.fd, name)
}

// entry returns the name of the next entry; "" at the end.
func (l *level) entry() (string, error) {
	if len(l.at.rest) == 0 {
		n, err := unix.Getdents(l.at.fd, l.at.buf)
		if errors.Is(err, unix.ENOENT) { // it is removed
			return "", nil
		}
		if err != nil {
			return "", fmt.Errorf("read directory: %w", err)
		}
		if n == 0 {
			return "", nil
		}
		l.at.rest = l.at.buf[:n]
	}
	size := binary.NativeEndian.Uint16(l.at.rest[entrySize:])
	entry := l.at.rest[:size]
	l.at.rest = l.at.rest[size:]
	l.next = int64(binary.NativeEndian.Uint64(entry[entryNext:]))
	name, _, _ := bytes.Cut(entry[entryName:], []byte{0})
	return string(name), nil
}

// down makes the directory of that name the innermost, unless it is something else by now.
func (w *walker) down(dir int, name string) error {
	if len(w.levels) >= w.maxLevels {
		w.missed = fmt.Errorf("more than %d directories in each other: %w", w.maxLevels, errdefs.ErrResourceExhausted)
		return nil
	}
	fd, err := w.open(dir, name)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return nil
	}
	if err != nil {
		return err
	}
	if w.st.Dev != w.dev {
		unix.Close(fd)
		return nil
	}
	w.push(fd)
	return nil
}

// up leaves the innermost directory. Where the one that it was found in is closed, and is
// not above it any more, the walk goes on in the next one that is open: the root always is.
func (w *walker) up() error {
	child := w.pop()
	defer func() { w.release(&child) }()
	if len(w.levels) == 0 || w.levels[len(w.levels)-1].at != nil {
		return nil
	}
	ok, err := w.reopen(child.at.fd)
	if ok || err != nil {
		return err
	}
	w.missed = errMoved
	for w.levels[len(w.levels)-1].at == nil {
		w.pop()
	}
	return nil
}

func (w *walker) pop() level {
	l := w.levels[len(w.levels)-1]
	w.levels = w.levels[:len(w.levels)-1]
	return l
}

// reopen opens the innermost directory again, if it is the one above child.
func (w *walker) reopen(child int) (bool, error) {
	l := &w.levels[len(w.levels)-1]
	fd, err := w.open(child, "..")
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if w.st.Dev != w.dev || w.st.Ino != l.ino {
		unix.Close(fd)
		return false, nil
	}
	if w.st.Nlink > 0 { // else it is removed, and has no places
		_, err = unix.Seek(fd, l.next, io.SeekStart)
	}
	if err != nil { // another with its number, which has not that place
		unix.Close(fd)
		return false, nil
	}
	l.at = w.listing(fd)
	return true, nil
}
