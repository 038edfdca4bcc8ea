package executor

import (
	"errors"
	"fmt"
	"os"
	"path"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// ordinary are the nodes that every container has.
func ordinary() []specs.LinuxDevice {
	mode, root := os.FileMode(0o666), uint32(0)
	var out []specs.LinuxDevice
	for _, d := range []struct {
		path         string
		major, minor int64
	}{{"/dev/null", 1, 3}, {"/dev/zero", 1, 5}, {"/dev/full", 1, 7}, {"/dev/random", 1, 8}, {"/dev/urandom", 1, 9}, {"/dev/tty", 5, 0}} {
		out = append(out, specs.LinuxDevice{Path: d.path, Type: "c", Major: d.major, Minor: d.minor, FileMode: &mode, UID: &root, GID: &root})
	}
	return out
}

// links are those that every container has in /dev.
func links() [][2]string {
	return [][2]string{
		{"/proc/self/fd", "/dev/fd"}, {"/proc/self/fd/0", "/dev/stdin"}, {"/proc/self/fd/1", "/dev/stdout"},
		{"/proc/self/fd/2", "/dev/stderr"}, {"pts/ptmx", "/dev/ptmx"},
	}
}

// populateDev makes nodes and links. One that the specification names wins.
func (r *rootfs) populateDev() error {
	named := make(map[string]bool)
	for _, d := range r.spec.Linux.Devices {
		named[path.Clean(d.Path)] = true
		if err := r.makeDevice(d); err != nil {
			return fmt.Errorf("make device %s: %w", d.Path, err)
		}
	}
	for _, d := range ordinary() {
		if named[d.Path] {
			continue
		}
		if err := r.makeDevice(d); err != nil {
			return fmt.Errorf("make device %s: %w", d.Path, err)
		}
	}
	dev, err := r.root.directory("/dev")
	if err != nil {
		return fmt.Errorf("open /dev: %w", err)
	}
	defer unix.Close(dev)
	for _, l := range links() {
		if err := unix.Symlinkat(l[0], dev, path.Base(l[1])); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("link %s: %w", l[1], err)
		}
	}
	return nil
}

// makeDevice makes a node, or shows ours where a user namespace could not use its own.
func (r *rootfs) makeDevice(d specs.LinuxDevice) error {
	if r.ns.ownUser() {
		tree, err := cloneTree(unix.AT_FDCWD, d.Path, false)
		if err != nil {
			return err
		}
		defer unix.Close(tree)
		return r.attach(tree, d.Path)
	}
	parent, err := r.root.directory(path.Dir(path.Clean(d.Path)))
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	name, mode := path.Base(d.Path), uint32(0o666)
	if d.FileMode != nil {
		mode = uint32(d.FileMode.Perm())
	}
	kind := map[string]uint32{"c": unix.S_IFCHR, "u": unix.S_IFCHR, "b": unix.S_IFBLK, "p": unix.S_IFIFO}[d.Type]
	if kind == 0 {
		return unix.EINVAL
	}
	number := int(unix.Mkdev(uint32(d.Major), uint32(d.Minor)))
	err = unix.Mknodat(parent, name, kind|mode, number)
	if errors.Is(err, unix.EEXIST) { // of the image
		if err = unix.Unlinkat(parent, name, 0); err == nil {
			err = unix.Mknodat(parent, name, kind|mode, number)
		}
	}
	if err != nil {
		return err
	}
	if err := unix.Fchmodat(parent, name, mode, 0); err != nil { // without the umask
		return err
	}
	return unix.Fchownat(parent, name, id(d.UID), id(d.GID), unix.AT_SYMLINK_NOFOLLOW)
}

func id(v *uint32) int {
	if v == nil {
		return 0
	}
	return int(*v)
}
