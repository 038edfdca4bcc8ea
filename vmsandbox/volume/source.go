package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// source is a mount's source on the host. It is found once and held by a descriptor, so
// that what has been looked at is what is shown.
type source struct {
	file *os.File // O_PATH
	path string   // without symbolic links
	stat unix.Stat_t
	fs   unix.Statfs_t
}

// openSource follows symbolic links, as mount(2) does. A source that does not exist
// becomes a directory: other runtimes make it, and pods rely on that.
func openSource(path string) (*source, error) {
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("mounts[].host_path %q is not absolute: %w", path, errdefs.ErrInvalidArgument)
	}
	resolved, err := filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(path, 0o755); err != nil {
			return nil, fmt.Errorf("make mount source %q: %w", path, err)
		}
		resolved, err = filepath.EvalSymlinks(path)
	}
	if err != nil {
		return nil, fmt.Errorf("resolve mount source %q: %w", path, err)
	}
	return openResolved(resolved)
}

// openResolved opens a source where it was found once, and nowhere else.
func openResolved(path string) (*source, error) {
	fd, err := openExactly(unix.AT_FDCWD, path, unix.O_PATH)
	if err != nil {
		return nil, fmt.Errorf("open mount source %q: %w", path, err)
	}
	s := &source{file: os.NewFile(uintptr(fd), path), path: path}
	if err := errors.Join(unix.Fstat(fd, &s.stat), unix.Fstatfs(fd, &s.fs)); err != nil {
		s.close()
		return nil, fmt.Errorf("stat mount source %q: %w", path, err)
	}
	return s, nil
}

// openExactly follows no symbolic link, wherever in the path it is. What was recorded of a volume
// had none: a container that can write there may have put it in to lead elsewhere.
func openExactly(dir int, path string, flags int) (int, error) {
	how := unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Resolve: unix.RESOLVE_NO_SYMLINKS}
	return unix.Openat2(dir, path, &how)
}

func (s *source) close() { s.file.Close() }

func (s *source) fd() int { return int(s.file.Fd()) }

func (s *source) typ() uint32 { return s.stat.Mode & unix.S_IFMT }

// pseudo tells whether a file system is one of this kernel itself. Those mean something
// else in a guest, or would let it reach this kernel.
func pseudo(magic int64) bool {
	switch magic {
	case unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.CGROUP_SUPER_MAGIC, unix.CGROUP2_SUPER_MAGIC,
		unix.DEBUGFS_MAGIC, unix.TRACEFS_MAGIC, unix.SECURITYFS_MAGIC, unix.BPF_FS_MAGIC,
		unix.DEVPTS_SUPER_MAGIC, unix.BINFMTFS_MAGIC, unix.EFIVARFS_MAGIC, unix.PSTOREFS_MAGIC,
		unix.NSFS_MAGIC, unix.SELINUX_MAGIC:
		return true
	}
	return false
}

// pseudoType tells the same by name, and of those that share their number with others.
func pseudoType(name string) bool {
	switch name {
	case "proc", "sysfs", "cgroup", "cgroup2", "debugfs", "tracefs", "securityfs", "bpf",
		"devpts", "devtmpfs", "binfmt_misc", "efivarfs", "pstore", "configfs", "selinuxfs":
		return true
	}
	return false
}

// mountTable is the mount table of this process, and knows where a source lies in it.
type mountTable []*mountinfo.Info

func readMounts() (mountTable, error) {
	mounts, err := mountinfo.GetMounts(nil)
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	return mounts, nil
}

// of returns the mount that s is on.
func (t mountTable) of(s *source) (*mountinfo.Info, error) {
	var stx unix.Statx_t
	if err := unix.Statx(s.fd(), "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &stx); err != nil {
		return nil, fmt.Errorf("find the mount of %q: %w", s.path, err)
	}
	for _, m := range t {
		if m.ID == int(stx.Mnt_id) {
			return m, nil
		}
	}
	return nil, fmt.Errorf("find the mount of %q: %w", s.path, errdefs.ErrNotFound)
}

// names lists the paths under which the file system shows s: a bind mount of a directory
// hides where that directory lies, other mounts of the file system tell.
func (t mountTable) names(s *source) ([]string, error) {
	on, err := t.of(s)
	if err != nil {
		return nil, err
	}
	rel, ok := below(s.path, on.Mountpoint)
	if !ok {
		return []string{s.path}, nil
	}
	inside := filepath.Join(on.Root, rel)
	out := []string{s.path}
	for _, m := range t {
		if m.Major != on.Major || m.Minor != on.Minor {
			continue
		}
		if rel, ok := below(inside, m.Root); ok {
			out = append(out, filepath.Join(m.Mountpoint, rel))
		}
	}
	return out, nil
}

// below returns what follows dir in path, "" if they are the same.
func below(path, dir string) (string, bool) {
	if path == dir {
		return "", true
	}
	return strings.CutPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// mountpoint finds the uppermost mount at a path.
func (t mountTable) mountpoint(path string) *mountinfo.Info {
	var found *mountinfo.Info
	for _, m := range t {
		if m.Mountpoint == path {
			found = m
		}
	}
	return found
}
