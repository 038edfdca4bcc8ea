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
	opaque   = "trusted.overlay.opaque"
)

// ReadFiles returns the contents of regular files as a container of the image sees
// them: upper layers hide lower ones, symbolic links are resolved inside the image. The
// map's keys are names as given; those that are missing, or no regular files, are not
// in it. A file of more than 1 MiB is errdefs.ErrResourceExhausted.
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
	defer v.close()
	for i := len(dirs) - 1; i >= 0; i-- {
		fd, err := unix.Open(dirs[i], dirFlags, 0)
		if err != nil {
			return nil, fmt.Errorf("open layer: %w", err)
		}
		v.opened = append(v.opened, fd)
	}
	root := v.opened[:len(v.opened):len(v.opened)]
	files := map[string][]byte{}
	for _, name := range names {
		content, err := v.read(root, name)
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

// view is the merged tree of some layers. A merged directory is the list of the
// directories it consists of, the uppermost first.
type view struct{ opened []int }

func (v *view) close() {
	for _, fd := range v.opened {
		unix.Close(fd)
	}
}

// read resolves name as a process with this root would.
func (v *view) read(root []int, name string) ([]byte, error) {
	stack := [][]int{root}
	rest := strings.Split(name, "/")
	for links := 0; len(rest) > 0; {
		part := rest[0]
		rest = rest[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			stack = stack[:max(1, len(stack)-1)]
			continue
		}
		at, mode, err := v.lookup(stack[len(stack)-1], part)
		if err != nil {
			return nil, err
		}
		switch {
		case mode == unix.S_IFDIR:
			stack = append(stack, at)
		case mode == unix.S_IFLNK:
			if links++; links > maxLinks {
				return nil, errdefs.ErrNotFound
			}
			target, err := readlink(at[0], part)
			if err != nil {
				return nil, err
			}
			if path.IsAbs(target) {
				stack = stack[:1]
			}
			rest = append(strings.Split(target, "/"), rest...)
		case mode == unix.S_IFREG && len(rest) == 0:
			return readFile(at[0], part)
		default:
			return nil, errdefs.ErrNotFound
		}
	}
	return nil, errdefs.ErrNotFound
}

// lookup finds name in a merged directory. It returns the type and, for a directory,
// what that is merged of; else the one directory that holds the name.
func (v *view) lookup(dir []int, name string) (at []int, mode uint32, err error) {
	for _, fd := range dir {
		var st unix.Stat_t
		err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENAMETOOLONG) {
			continue
		}
		if err != nil {
			return nil, 0, fmt.Errorf("look up: %w", err)
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
			return nil, 0, fmt.Errorf("open directory: %w", err)
		}
		v.opened = append(v.opened, sub)
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
