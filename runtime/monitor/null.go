package monitor

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// openNull opens the host's /dev/null through a read-only mount of its own. What a
// container's process gets as descriptors, crun gives to the container's user (fchown), and
// root in a container may change the mode of: through such a mount neither works, or
// /dev/null of the whole host would be that user's. The device reads and writes as ever.
// Before Linux 5.12 there are no such mounts, and it is opened as it is.
func openNull() (*os.File, error) {
	fd, err := openReadonly("/dev/null")
	if errors.Is(err, unix.ENOSYS) {
		// Without os.OpenFile's poller, because the child wants it blocking.
		fd, err = unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("open /dev/null: %w", err)
	}
	return os.NewFile(uintptr(fd), "/dev/null"), nil
}

// openReadonly opens a device for reading and writing whose inode cannot be changed
// through the descriptor. The mount is gone with it.
func openReadonly(device string) (int, error) {
	tree, err := unix.OpenTree(unix.AT_FDCWD, device, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(tree)
	attributes := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, attributes); err != nil {
		return -1, err
	}
	return unix.Open("/proc/self/fd/"+strconv.Itoa(tree), unix.O_RDWR|unix.O_CLOEXEC, 0)
}
