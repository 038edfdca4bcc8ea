package layer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

const (
	maxFile  = 1 << 20
	maxLinks = 40
	// maxSteps is how many names are looked up for one file. Links can ask for a hundred
	// thousand, and each is looked for in every layer.
	maxSteps = 4096
	opaque   = "trusted.overlay.opaque"
)

// ReadFiles returns the contents of regular files as a container of the image sees
// them: upper layers hide lower ones, symbolic links are resolved inside the image. The
// map's keys are names as given; those that are missing, or no regular files, are not
// in it. A file of more than 1 MiB, or that is found only after too many steps, is
// errdefs.ErrResourceExhausted.
//
// The layers are merged here, by overlayfs' rules: for a file or two that takes
// microseconds, whereas a mount would take milliseconds, and a kernel that can mount
// without a mount point. The layers are immutable, so nothing races with the walk.
func (s *Store) ReadFiles(ctx context.Context, chain []digest.Digest, names ...string) (map[string][]byte, error) {
	dirs, err := s.Mount(ctx, chain)
	if err != nil {
		return nil, err
	}
	v := &view{}
	defer func() { closeAll(v.root) }()
	for i := len(dirs) - 1; i >= 0; i-- {
		fd, err := unix.Open(dirs[i], dirFlags, 0)
		if err != nil {
			return nil, fmt.Errorf("open layer: %w", err)
		}
		v.root = append(v.root, fd)
	}
	files := map[string][]byte{}
	for _, name := range names {
		content, err := v.read(name)
		if errors.Is(err, errdefs.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read %.100q of image: %w", name, err)
		}
		files[name] = content
	}
	return files, nil
}

const dirFlags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC

// view is the merged tree of some layers, and a place in it. A merged directory is the
// list of the directories it consists of, the uppermost first. Besides the root no other
// is open than the place: links can lead through thousands.
type view struct {
	root, at []int    // at is nil while the place is not open
	path     []string // of the place, without links
	steps    int
}

// move makes another directory the place.
func (v *view) move(path []string, at []int) {
	if len(v.path) > 0 { // else the root is open there
		closeAll(v.at)
	}
	v.path, v.at = path, at
}

// up moves to the parent directory. That is opened when something is looked up there:
// whoever goes up twice does not need it.
func (v *view) up() {
	v.move(v.path[:max(0, len(v.path)-1)], nil)
}

// open opens the place.
func (v *view) open() error {
	if v.at != nil {
		return nil
	}
	names := v.path
	v.move(nil, v.root)
	for _, name := range names {
		if _, _, err := v.step(name); err != nil {
			return err
		}
	}
	return nil
}

// step looks up name in the place and returns its type. A directory becomes the place;
// anything else is in dir.
func (v *view) step(name string) (dir int, mode uint32, err error) {
	if v.steps++; v.steps > maxSteps {
		return 0, 0, fmt.Errorf("path of more than %d steps: %w", maxSteps, errdefs.ErrResourceExhausted)
	}
	at, mode, err := lookup(v.at, name)
	if err != nil {
		return 0, 0, err
	}
	if mode == unix.S_IFDIR {
		v.move(append(v.path, name), at)
	}
	return at[0], mode, nil
}

// read resolves name as a process with this root would.
func (v *view) read(name string) ([]byte, error) {
	v.steps = 0
	defer v.move(nil, nil)
	rest := strings.Split(name, "/")
	for links := 0; len(rest) > 0; {
		part := rest[0]
		rest = rest[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			v.up()
			continue
		}
		if err := v.open(); err != nil {
			return nil, err
		}
		dir, mode, err := v.step(part)
		if err != nil {
			return nil, err
		}
		switch {
		case mode == unix.S_IFDIR: // it is the place now
		case mode == unix.S_IFLNK:
			if links++; links > maxLinks {
				return nil, errdefs.ErrNotFound
			}
			target, err := readlink(dir, part)
			if err != nil {
				return nil, err
			}
			if path.IsAbs(target) {
				v.move(nil, nil)
			}
			rest = append(strings.Split(target, "/"), rest...)
		case mode == unix.S_IFREG && len(rest) == 0:
			return readFile(dir, part)
		default:
			return nil, errdefs.ErrNotFound
		}
	}
	return nil, errdefs.ErrNotFound
}

// lookup finds name in a merged directory. It returns the type and, for a directory,
// what that is merged of, opened; else the one directory that holds the name.
func lookup(dir []int, name string) (at []int, mode uint32, err error) {
	defer func() {
		if err != nil {
			closeAll(at)
			at = nil
		}
	}()
	for _, fd := range dir {
		var st unix.Stat_t
		err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENAMETOOLONG) {
			continue
		}
		if err != nil {
			return at, 0, fmt.Errorf("look up: %w", err)
		}
		mode := st.Mode & unix.S_IFMT
		if mode != unix.S_IFDIR {
			whiteout := mode == unix.S_IFCHR && st.Rdev == 0
			if len(at) > 0 || whiteout {
				break
			}
			return []int{fd}, mode, nil
		}
		sub, err := unix.Openat(fd, name, dirFlags, 0)
		if err != nil {
			return at, 0, fmt.Errorf("open directory: %w", err)
		}
		at = append(at, sub)
		var mark [1]byte
		if n, err := unix.Fgetxattr(sub, opaque, mark[:]); err == nil && n == 1 && mark[0] == 'y' {
			break
		}
	}
	if len(at) == 0 {
		return nil, 0, errdefs.ErrNotFound
	}
	return at, unix.S_IFDIR, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

func readlink(dir int, name string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(dir, name, buf)
	if err != nil {
		return "", fmt.Errorf("read link: %w", err)
	}
	return string(buf[:n]), nil
}

func readFile(dir int, name string) ([]byte, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	if len(content) > maxFile {
		return nil, fmt.Errorf("file of more than %d bytes: %w", maxFile, errdefs.ErrResourceExhausted)
	}
	return content, nil
}
