package volume

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// pointsSuffix is appended to the directory of a machine's volumes: there lie the mount
// points. The directory itself is a read-only mount of that one, so that a guest, which
// sees its root, cannot put links in the way of later mounts.
const pointsSuffix = ".points"

// MakeDir makes the directory that a machine exports: a mount of its own that is shared,
// so that what is mounted below reaches the hypervisor's mount namespace, a slave. It is
// idempotent.
func MakeDir(dir string) error {
	points := dir + pointsSuffix
	for _, d := range []string{dir, points} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return fmt.Errorf("make directory of volumes: %w", err)
		}
	}
	mounts, err := readMounts()
	if err != nil {
		return err
	}
	if mounts.mountpoint(dir) != nil {
		return nil
	}
	tree, err := unix.OpenTree(unix.AT_FDCWD, points, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("clone directory of volumes: %w", err)
	}
	defer unix.Close(tree)
	private := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NODEV, Propagation: unix.MS_PRIVATE}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &private); err != nil {
		return fmt.Errorf("make directory of volumes read-only: %w", err)
	}
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount directory of volumes: %w", err)
	}
	if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
		return errors.Join(fmt.Errorf("share directory of volumes: %w", err), RemoveDir(dir))
	}
	return nil
}

// RemoveDir undoes MakeDir, whatever is still mounted below. It is idempotent.
func RemoveDir(dir string) error {
	if err := unmountBelow(dir, true); err != nil {
		return err
	}
	for _, d := range []string{dir + pointsSuffix, dir} {
		if err := removePoints(d); err != nil {
			return fmt.Errorf("remove directory of volumes: %w", err)
		}
	}
	return nil
}

// removePoints removes a directory of mount points, which are empty. It never descends:
// what is still mounted, against all expectation, is a volume.
func removePoints(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		err = errors.Join(err, os.Remove(filepath.Join(dir, e.Name())))
	}
	if err != nil {
		return err
	}
	return os.Remove(dir)
}

// unmountBelow detaches everything mounted below dir, and dir itself if asked to.
func unmountBelow(dir string, itself bool) error {
	mounts, err := readMounts()
	if err != nil {
		return err
	}
	var points []string
	for _, m := range mounts {
		if rel, ok := below(m.Mountpoint, dir); ok && (rel != "" || itself) {
			points = append(points, m.Mountpoint)
		}
	}
	slices.SortFunc(points, func(a, b string) int { return strings.Count(a, "/") - strings.Count(b, "/") })
	// Detaching a mount takes those below along: they are not found then.
	var errs []error
	for _, p := range points {
		if err := detach(p); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// detach unmounts without waiting for those who still use files: nobody is kept from
// removing a pod by a process that hangs.
func detach(path string) error {
	err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %q: %w", path, err)
	}
	return nil
}

// export shows a source of the host to the guest as dir/name.
type export struct {
	dir, name string
	readonly  bool
	recursive bool // readonly holds for mounts below too
	follow    bool // later mounts below the source appear
}

func (e export) mount(s *source) error {
	point := filepath.Join(pointsOf(e.dir), e.name)
	if err := makePoint(point, s.typ() == unix.S_IFDIR); err != nil {
		return err
	}
	err := e.bind(s)
	if err == nil {
		err = e.letGo()
	}
	if err != nil {
		return errors.Join(err, detach(filepath.Join(e.dir, e.name)), os.Remove(point))
	}
	return nil
}

// letGo leaves the mounts below the export to the hypervisor's mount namespace alone. Here
// they would keep directories of the source from being removed once what was mounted there
// is unmounted; in another namespace they go with the directory. Cut off first, so that
// the hypervisor keeps its copies: those that follow the source do so by themselves then.
func (e export) letGo() error {
	top := filepath.Join(e.dir, e.name)
	cut := unix.MountAttr{Propagation: unix.MS_PRIVATE}
	if err := unix.MountSetattr(unix.AT_FDCWD, top, unix.AT_RECURSIVE|unix.AT_SYMLINK_NOFOLLOW, &cut); err != nil {
		return fmt.Errorf("cut off the mount of a volume: %w", err)
	}
	return unmountBelow(top, false)
}

func makePoint(point string, directory bool) error {
	var err error
	if directory {
		err = os.Mkdir(point, 0o755)
	} else {
		var f *os.File
		if f, err = os.OpenFile(point, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644); err == nil {
			f.Close()
		}
	}
	if err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("make mount point of a volume: %w", err)
	}
	return nil
}

// pointsOf returns where mount points of a directory are made: in the directory itself if
// MakeDir has not made it. A guest can write into that one, so that nothing found there is
// followed.
func pointsOf(dir string) string {
	var shown, points unix.Stat_t
	if unix.Lstat(dir, &shown) != nil || unix.Lstat(dir+pointsSuffix, &points) != nil || shown.Ino != points.Ino || shown.Dev != points.Dev {
		return dir
	}
	return dir + pointsSuffix
}

// bind mounts a copy of the source's tree. Its attributes are set before it appears: the
// copy that the hypervisor gets keeps those of that moment.
func (e export) bind(s *source) error {
	tree, err := unix.OpenTree(s.fd(), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH|unix.AT_RECURSIVE)
	if err != nil {
		return fmt.Errorf("clone mounts of %q: %w", s.path, err)
	}
	defer unix.Close(tree)
	// Never a peer of the source's mounts: what is unmounted here would be unmounted there.
	all := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NODEV, Propagation: unix.MS_PRIVATE}
	if e.follow {
		all.Propagation = unix.MS_SLAVE
	}
	top := unix.MountAttr{}
	switch {
	case e.readonly && e.recursive:
		all.Attr_set |= unix.MOUNT_ATTR_RDONLY
	case e.readonly:
		top.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &all); err != nil {
		return fmt.Errorf("set attributes of mounts of %q: %w", s.path, err)
	}
	if top.Attr_set != 0 {
		if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &top); err != nil {
			return fmt.Errorf("make the mount of %q read-only: %w", s.path, err)
		}
	}
	return e.attach(tree)
}

func (e export) attach(tree int) error {
	target, err := openExactly(unix.AT_FDCWD, filepath.Join(e.dir, e.name), unix.O_PATH)
	if err != nil {
		return fmt.Errorf("open mount point of a volume: %w", err)
	}
	defer unix.Close(target)
	if err := unix.MoveMount(tree, "", target, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount a volume: %w", err)
	}
	return nil
}

// unmount ends the export. It is idempotent. The hypervisor's copy goes with the one here
// or, if there are mounts below it, with its mount point.
func (e export) unmount() error {
	if err := detach(filepath.Join(e.dir, e.name)); err != nil {
		return err
	}
	point := filepath.Join(pointsOf(e.dir), e.name)
	err := os.Remove(point)
	if err == nil || errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTEMPTY) {
		return nil // what a guest put there goes with the machine
	}
	return fmt.Errorf("remove mount point of a volume: %w", err)
}
