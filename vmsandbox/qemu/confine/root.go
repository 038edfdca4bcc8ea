package confine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// place is where the new root is assembled: any directory that is everywhere, and that
// nothing is taken from.
const place = "/sys"

// newRoot makes a file system with nothing but what was asked for the root. The mount
// namespace is the thread's own already.
func newRoot(r Request) error {
	flags := uintptr(unix.MS_NOSUID | unix.MS_NOEXEC)
	if len(r.Devices) == 0 {
		flags |= unix.MS_NODEV
	}
	if err := unix.Mount("none", place, "tmpfs", flags, "mode=0755,size=1m,nr_inodes=1k"); err != nil {
		return fmt.Errorf("mount new root: %w", err)
	}
	for _, path := range r.Files {
		if err := show(path, unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV); err != nil {
			return err
		}
	}
	for _, path := range r.Devices {
		if err := makeDevice(path, int(r.User)); err != nil {
			return err
		}
	}
	if err := share(r.Shared); err != nil {
		return err
	}
	if err := showDescriptors(); err != nil {
		return err
	}
	return enterRoot(flags)
}

// share shows the shared directory, if there is one. Itself it is read-only, so that
// nothing is put in the way of mounts below, which have flags of their own.
func share(dir string) error {
	if dir == "" {
		return nil
	}
	return bind(dir, place+dir, unix.MS_REC, unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC)
}

// makeDevice makes a node for the device behind path that is the user's own: the host's
// belongs to whoever it does there.
func makeDevice(path string, user int) error {
	target := filepath.Join(place, path)
	var st unix.Stat_t
	err := unix.Stat(path, &st)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(target), 0o755)
	}
	if err == nil {
		err = unix.Mknod(target, st.Mode&unix.S_IFMT|0o600, int(st.Rdev))
	}
	if err == nil {
		err = unix.Chown(target, user, user)
	}
	if err != nil {
		return fmt.Errorf("make device %s: %w", path, err)
	}
	return nil
}

// showDescriptors lets the program open its descriptors by name, and see nothing else of
// /proc.
func showDescriptors() error {
	const usual = place + "/proc/self/fd"
	// "self" would be resolved here; the process stays the same.
	return bind(fmt.Sprintf("/proc/%d/fd", os.Getpid()), usual, 0, unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC)
}

// show makes a file or directory visible at its own path. A symbolic link is one again;
// where it leads has to be shown too.
func show(path string, flags uintptr) error {
	target := filepath.Join(place, path)
	if _, err := os.Lstat(target); err == nil {
		return nil // below a directory that is shown
	}
	st, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("show %s: %w", path, err)
	}
	if st.Mode()&os.ModeSymlink == 0 {
		return bind(path, target, 0, flags)
	}
	to, err := os.Readlink(path)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(target), 0o755)
	}
	if err == nil {
		err = os.Symlink(to, target)
	}
	if err != nil {
		return fmt.Errorf("show %s: %w", path, err)
	}
	return nil
}

func bind(path, target string, how, flags uintptr) error {
	st, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("bind %s: %w", path, err)
	}
	if st.IsDir() {
		err = os.MkdirAll(target, 0o755)
	} else if err = os.MkdirAll(filepath.Dir(target), 0o755); err == nil {
		err = os.WriteFile(target, nil, 0o444)
	}
	if err != nil {
		return fmt.Errorf("bind %s: %w", path, err)
	}
	if err := unix.Mount(path, target, "", unix.MS_BIND|how, ""); err != nil {
		return fmt.Errorf("bind %s: %w", path, err)
	}
	if err := unix.Mount("", target, "", unix.MS_REMOUNT|unix.MS_BIND|flags, ""); err != nil {
		return fmt.Errorf("bind %s: change flags: %w", path, err)
	}
	return nil
}

func enterRoot(flags uintptr) error {
	if err := unix.Mount("", place, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|flags, ""); err != nil {
		return fmt.Errorf("make new root read-only: %w", err)
	}
	if err := unix.Chdir(place); err != nil {
		return fmt.Errorf("enter new root: %w", err)
	}
	// The old root comes to lie upon the new one, whence it is taken away.
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("change root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("detach the host's root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("enter new root: %w", err)
	}
	return nil
}
