package netns

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Dir is the directory in which the namespaces of one pod are pinned.
type Dir string

// Path is where the namespace of type t is pinned, if it is.
func (d Dir) Path(t specs.LinuxNamespaceType) string {
	return filepath.Join(string(d), procName(t))
}

// Has says whether a namespace of type t is pinned and alive.
func (d Dir) Has(t specs.LinuxNamespaceType) bool {
	return IsNamespace(d.Path(t))
}

// Pin pins namespaces of the process pid. What it pinned before an error stays; Unpin
// takes it away.
func (d Dir) Pin(pid int, types ...specs.LinuxNamespaceType) error {
	return d.pin(fmt.Sprintf("/proc/%d/ns", pid), types)
}

func (d Dir) pin(from string, types []specs.LinuxNamespaceType) error {
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return fmt.Errorf("make namespace directory: %w", err)
	}
	for _, t := range types {
		at := d.Path(t)
		f, err := os.OpenFile(at, os.O_CREATE|os.O_RDONLY, 0o600)
		if err != nil {
			return fmt.Errorf("make pin: %w", err)
		}
		_ = f.Close()
		if err := unix.Mount(filepath.Join(from, procName(t)), at, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("pin %s namespace: %w", t, err)
		}
	}
	return nil
}

// Unpin releases every namespace of d and removes the directory. It is idempotent.
// The kernel destroys a namespace in its own time after its last user has gone.
func (d Dir) Unpin() error {
	entries, err := os.ReadDir(string(d))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read namespace directory: %w", err)
	}
	for _, e := range entries {
		if err := unpin(filepath.Join(string(d), e.Name())); err != nil {
			return err
		}
	}
	if err := os.Remove(string(d)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove namespace directory: %w", err)
	}
	return nil
}

// unpin also takes away pins that lie on top of each other, which a crash between
// pinning and recording can leave.
func unpin(path string) error {
	for {
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if err == nil {
			continue
		}
		if err == unix.EINVAL || err == unix.ENOENT {
			break
		}
		return fmt.Errorf("unpin %s: %w", filepath.Base(path), err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove pin: %w", err)
	}
	return nil
}

// IsNamespace says whether path is a pinned namespace, as opposed to the empty file
// that a reboot or a half-made sandbox leaves.
func IsNamespace(path string) bool {
	var s unix.Statfs_t
	return unix.Statfs(path, &s) == nil && s.Type == unix.NSFS_MAGIC
}

// procName is the name of a namespace type in /proc/PID/ns.
func procName(t specs.LinuxNamespaceType) string {
	switch t {
	case specs.NetworkNamespace:
		return "net"
	case specs.MountNamespace:
		return "mnt"
	default:
		return string(t)
	}
}

func cloneFlag(t specs.LinuxNamespaceType) (int, error) {
	switch t {
	case specs.NetworkNamespace:
		return unix.CLONE_NEWNET, nil
	case specs.IPCNamespace:
		return unix.CLONE_NEWIPC, nil
	case specs.UTSNamespace:
		return unix.CLONE_NEWUTS, nil
	}
	return 0, fmt.Errorf("enter %s namespace with a thread: %w", t, errdefs.ErrInvalidArgument)
}
