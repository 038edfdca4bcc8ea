package sandbox

import (
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// isolate makes dir a private mount of its own if it lies on one that is shared. The
// monitor mounts root file systems below dir out of the host's sight, for which it has
// to cut the mount that dir lies on from its peers. Without isolate that would be /run
// on most hosts, and nothing mounted below /run would ever reach a container, or the
// host from a container, whatever propagation a volume asks for.
func isolate(dir string) error {
	// The mount table knows no symbolic links, such as /var/run.
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return fmt.Errorf("resolve directory of containers: %w", err)
	}
	mount, err := mountOf(dir)
	if err != nil {
		return err
	}
	if !strings.Contains(mount.Optional, "shared:") {
		return nil
	}
	if mount.Mountpoint != dir {
		if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind directory of containers: %w", err)
		}
	}
	if err := unix.Mount("", dir, "", unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make directory of containers private: %w", err)
	}
	return nil
}
