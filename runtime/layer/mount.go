package layer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// Nothing of a layer's mount is used but as a lower layer of overlayfs or the source
// of a bind mount, which have flags of their own.
const mountFlags = unix.MS_RDONLY | unix.MS_NODEV | unix.MS_NOSUID

// Mount returns the directories to stack for a chain of layers, in its order: lowest
// first. That is one for every layer, except that
//
//   - a layer which occurs more than once is listed at its highest place only. That
//     shows the same tree, and overlayfs refuses to stack a directory twice;
//   - layers below one whose root is opaque are left out, since overlayfs does not look
//     for that mark on roots;
//   - there is one directory, with all layers merged, where overlayfs would show another
//     tree than the layers make (misleads).
//
// The layers stay mounted until Remove, over restarts of the process, too. A layer that
// is not there is errdefs.ErrNotFound.
func (s *Store) Mount(ctx context.Context, chain []digest.Digest) (dirs []string, err error) {
	stack, err := s.stack(ctx, chain)
	if err != nil {
		return nil, err
	}
	merged, err := s.misleads(ctx, stack)
	if err != nil {
		return nil, err
	}
	if merged {
		dir, err := s.mountFlat(ctx, stack)
		if !errdefs.IsNotImplemented(err) && !tooLarge(err) {
			return []string{dir}, err
		}
		s.misleading.Store(s.merged(idsOf(stack)), false) // it would fail again
		s.log.Warn("layers are stacked, which changes directories' attributes", "error", err)
	}
	for _, p := range stack {
		dirs = append(dirs, p.dir)
	}
	return dirs, nil
}

// tooLarge tells of an error of merging that layers together are beyond what one may have,
// as none of them is. A disk that is full is something else: it may have room again.
func tooLarge(err error) bool {
	return errdefs.IsResourceExhausted(err) && !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT)
}

// stack mounts every layer for itself.
func (s *Store) stack(ctx context.Context, chain []digest.Digest) (stack []placed, err error) {
	for i, id := range chain {
		dir, err := s.mountOne(ctx, id)
		if err != nil {
			return nil, err
		}
		if slices.Contains(chain[i+1:], id) {
			continue
		}
		if isOpaque(dir) {
			stack = nil
		}
		stack = append(stack, placed{id, dir})
	}
	return stack, nil
}

func isOpaque(dir string) bool {
	var mark [1]byte
	n, err := unix.Lgetxattr(dir, opaque, mark[:])
	return err == nil && n == 1 && mark[0] == 'y'
}

func (s *Store) mountOne(ctx context.Context, id digest.Digest) (string, error) {
	n, err := name(id)
	if err != nil {
		return "", err
	}
	if s.state == "" {
		return "", fmt.Errorf("mount layer: %w: the store was opened without a place for mounts", errdefs.ErrFailedPrecondition)
	}
	release, err := s.locks.acquire(ctx, n)
	if err != nil {
		return "", err
	}
	defer release()
	blob, _, err := s.Blob(id)
	if err != nil {
		return "", err
	}
	dir := s.target(n)
	if is, err := shows(dir, blob); is || err != nil {
		return dir, err
	}
	if err := mountAnew(dir, blob, func() error { return s.mountBlob(blob, dir) }); err != nil {
		return "", fmt.Errorf("mount layer %s: %w", id, err)
	}
	return dir, nil
}

func (s *Store) mountBlob(blob, dir string) error {
	if !s.forceLoop && s.directIO && unix.Mount(blob, dir, "erofs", mountFlags, "directio") == nil {
		return nil
	}
	return s.mountFiles([]string{blob}, dir)
}

// mountFiles mounts an image that may go on in other files.
func (s *Store) mountFiles(files []string, dir string) error {
	if s.forceLoop {
		return mountLoops(files, dir)
	}
	err := mountOn(files, dir)
	switch {
	case errors.Is(err, unix.ENOTBLK):
		return mountLoops(files, dir)
	case errors.Is(err, unix.ENODEV):
		return fmt.Errorf("kernel has no erofs (try: modprobe erofs): %w: %w", errdefs.ErrFailedPrecondition, err)
	}
	return err
}

// mountOn uses no options of mount(2), where a path must not hold a comma.
func mountOn(files []string, dir string) error {
	fs, err := unix.Fsopen("erofs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("fsopen", err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigSetString(fs, "source", files[0]); err != nil {
		return os.NewSyscallError("fsconfig source", err)
	}
	for _, f := range files[1:] {
		if err := unix.FsconfigSetString(fs, "device", f); err != nil {
			return os.NewSyscallError("fsconfig device", err)
		}
	}
	if err := unix.FsconfigSetFlag(fs, "ro"); err != nil {
		return os.NewSyscallError("fsconfig ro", err)
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return os.NewSyscallError("fsconfig create", err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOSUID)
	if err != nil {
		return os.NewSyscallError("fsmount", err)
	}
	defer unix.Close(fd)
	return os.NewSyscallError("move_mount", unix.MoveMount(fd, "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH))
}

// mounted tells whether a layer is mounted on dir. The kernel is asked each time, which
// takes a microsecond, so that no memory can be wrong about it.
func mounted(dir string) (bool, error) {
	var st unix.Statfs_t
	err := unix.Statfs(dir, &st)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look at mount point: %w", err)
	}
	return st.Type == unix.EROFS_SUPER_MAGIC_V1, nil
}

// unmount takes the layer's mount away, and its mount point.
func (s *Store) unmount(n string) error {
	return unmountAll(s.target(n))
}

func unmountAll(dir string) error {
	for {
		is, err := mounted(dir)
		if err != nil {
			return err
		}
		if !is {
			break
		}
		if err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("unmount layer: %w", err)
		}
	}
	for _, name := range []string{dir + originSuffix, dir} {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove mount point: %w", err)
		}
	}
	return nil
}

// makePrivate sees to it that mounts in dir do not travel to other mount namespaces,
// and that an unmount in one of those does not travel here. What decides is the mount
// that dir lies in; if that is shared, dir becomes a mount of its own.
func makePrivate(dir string) error {
	infos, err := mountinfo.GetMounts(func(i *mountinfo.Info) (skip, stop bool) {
		return !strings.HasPrefix(dir+"/", strings.TrimSuffix(i.Mountpoint, "/")+"/"), false
	})
	if err != nil {
		return fmt.Errorf("read mountinfo: %w", err)
	}
	var at *mountinfo.Info
	for _, i := range infos {
		if at == nil || len(i.Mountpoint) >= len(at.Mountpoint) {
			at = i
		}
	}
	if at == nil || !strings.Contains(at.Optional, "shared:") {
		return nil
	}
	if at.Mountpoint != dir {
		if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind state directory: %w", err)
		}
	}
	if err := unix.Mount("", dir, "", unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make state directory private: %w", err)
	}
	return nil
}
