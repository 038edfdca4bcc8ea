package executor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// rootfs builds what a container sees, in its mount namespace, on a thread that has all
// of our own privileges.
type rootfs struct {
	spec   *specs.Spec
	bundle string
	path   string
	root   root
	init   *stub
	ns     namespaces
	blank  *os.File // an empty file system, attached once
	home   string   // the user's, as HOME=
}

// build mounts everything; mount brings the container's own file systems.
func (r *rootfs) build(mount func() error) error {
	if err := unix.Mount("", "/", "", propagationOf(r.spec)|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("set propagation of mounts: %w", err)
	}
	if mount != nil {
		if err := mount(); err != nil {
			return err
		}
	}
	if err := r.open(); err != nil {
		return err
	}
	defer r.root.close()
	if r.ns.ownUser() {
		// Files are to belong to the container's root.
		if err := actAs(rootOf(r.spec)); err != nil {
			return err
		}
	}
	for i, m := range r.spec.Mounts {
		if err := r.mount(i, m); err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.Source, m.Destination, err)
		}
	}
	if !isDevBound(r.spec.Mounts) {
		if err := r.populateDev(); err != nil {
			return err
		}
	}
	cwd, err := r.root.directory(r.spec.Process.Cwd)
	if err != nil {
		return fmt.Errorf("make working directory %s: %w", r.spec.Process.Cwd, err)
	}
	unix.Close(cwd) // it would keep the root, and every disk below it, for good
	r.home = homeOf(r.root, r.spec.Process.User.UID)
	return r.protect()
}

func propagationOf(spec *specs.Spec) uintptr {
	switch spec.Linux.RootfsPropagation {
	case "shared", "rshared":
		return unix.MS_SHARED
	case "private", "rprivate":
		return unix.MS_PRIVATE
	}
	return unix.MS_SLAVE
}

// open opens the root, which is made a mount if it is none.
func (r *rootfs) open() error {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, r.path, 0, unix.STATX_TYPE, &st); err != nil {
		return fmt.Errorf("find root file system %s: %w", r.path, err)
	}
	if st.Attributes&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		if err := unix.Mount(r.path, r.path, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("bind root file system %s: %w", r.path, err)
		}
	}
	fd, err := unix.Open(r.path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open root file system %s: %w", r.path, err)
	}
	r.root = root{fd}
	return nil
}

// actAs changes who the calling thread is when it deals with files. It keeps all
// capabilities, which the change of user takes.
func actAs(uid, gid int) error {
	// They return the old id, never an error.
	_ = unix.Setfsgid(gid)
	_ = unix.Setfsuid(uid)
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if err := unix.Capget(&head, &caps[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	caps[0].Effective, caps[1].Effective = caps[0].Permitted, caps[1].Permitted
	if err := unix.Capset(&head, &caps[0]); err != nil {
		return fmt.Errorf("keep capabilities: %w", err)
	}
	return nil
}

// mount attaches mount i of the specification.
func (r *rootfs) mount(i int, m specs.Mount) error {
	if filepath.Clean("/"+m.Destination) == "/" {
		return fmt.Errorf("destination is the root: %w", errdefs.ErrInvalidArgument)
	}
	o := parseOptions(m)
	if !o.bind {
		tree, err := r.init.take(fdMounts + i)
		if err != nil {
			return err
		}
		defer tree.Close()
		if err := setPropagation(int(tree.Fd()), o); err != nil {
			return err
		}
		return r.attach(int(tree.Fd()), m.Destination)
	}
	source := m.Source
	if !filepath.IsAbs(source) {
		source = filepath.Join(r.bundle, source)
	}
	tree, err := cloneTree(unix.AT_FDCWD, source, o.recursive)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	if err := r.adorn(tree, m, o); err != nil {
		return err
	}
	return r.attach(tree, m.Destination)
}

// adorn gives a bind mount its attributes.
func (r *rootfs) adorn(tree int, m specs.Mount, o mountOptions) error {
	attr := unix.MountAttr{Attr_set: o.set, Attr_clr: o.clear}
	if o.atime {
		attr.Attr_clr |= unix.MOUNT_ATTR__ATIME
	}
	if len(m.UIDMappings) > 0 || len(m.GIDMappings) > 0 {
		ns, err := r.idMapFor(m)
		if err != nil {
			return err
		}
		defer ns.Close()
		attr.Attr_set |= unix.MOUNT_ATTR_IDMAP
		attr.Userns_fd = uint64(ns.Fd())
	}
	if attr.Attr_set != 0 || attr.Attr_clr != 0 {
		if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attr); err != nil {
			return fmt.Errorf("set attributes: %w", err)
		}
	}
	if o.deep != 0 {
		if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: o.deep}); err != nil {
			return fmt.Errorf("set attributes of everything below: %w", err)
		}
	}
	return setPropagation(tree, o)
}

// idMapFor returns the container's user namespace, if it has the mappings of the mount.
func (r *rootfs) idMapFor(m specs.Mount) (*os.File, error) {
	l := r.spec.Linux
	if !slices.Equal(m.UIDMappings, l.UIDMappings) || !slices.Equal(m.GIDMappings, l.GIDMappings) || !r.ns.ownUser() {
		return nil, fmt.Errorf("id mappings that are not the container's: %w", errdefs.ErrNotImplemented)
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", r.init.pid))
	if err != nil {
		return nil, fmt.Errorf("open user namespace: %w", err)
	}
	return f, nil
}

func setPropagation(tree int, o mountOptions) error {
	if o.propagation != 0 {
		if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Propagation: o.propagation}); err != nil {
			return fmt.Errorf("set propagation: %w", err)
		}
	}
	if o.deepPropagation != 0 {
		if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &unix.MountAttr{Propagation: o.deepPropagation}); err != nil {
			return fmt.Errorf("set propagation: %w", err)
		}
	}
	return nil
}

func cloneTree(dir int, path string, recursive bool) (int, error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	if path == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	tree, err := unix.OpenTree(dir, path, flags)
	if err != nil {
		return -1, fmt.Errorf("clone mount: %w", err)
	}
	return tree, nil
}

// attach attaches a tree at a place below the root, which is made if it is missing.
func (r *rootfs) attach(tree int, destination string) error {
	var st unix.Stat_t
	if err := unix.Fstat(tree, &st); err != nil {
		return fmt.Errorf("look at mount: %w", err)
	}
	var place int
	var err error
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		place, err = r.root.directory(destination)
	} else {
		place, err = r.root.file(destination)
	}
	if err != nil {
		return fmt.Errorf("make %s: %w", destination, err)
	}
	defer unix.Close(place)
	var at unix.Stat_t
	if err := unix.Fstat(place, &at); err != nil {
		return fmt.Errorf("look at %s: %w", destination, err)
	}
	if isDir := at.Mode&unix.S_IFMT == unix.S_IFDIR; isDir != (st.Mode&unix.S_IFMT == unix.S_IFDIR) {
		if isDir {
			return fmt.Errorf("attach mount: %w", unix.EISDIR)
		}
		return fmt.Errorf("attach mount: %w", unix.ENOTDIR)
	}
	return moveTo(tree, place)
}

func moveTo(tree, place int) error {
	const flags = unix.MOVE_MOUNT_F_EMPTY_PATH | unix.MOVE_MOUNT_T_EMPTY_PATH
	if err := unix.MoveMount(tree, "", place, "", flags); err != nil {
		return fmt.Errorf("attach mount: %w", err)
	}
	return nil
}

// protect masks paths and makes others read-only, at last the root itself.
func (r *rootfs) protect() error {
	defer func() {
		if r.blank != nil {
			r.blank.Close()
		}
	}()
	for _, path := range r.spec.Linux.ReadonlyPaths {
		if err := r.freeze(path); err != nil {
			return fmt.Errorf("make %s read-only: %w", path, err)
		}
	}
	for _, path := range r.spec.Linux.MaskedPaths {
		if err := r.mask(path); err != nil {
			return fmt.Errorf("mask %s: %w", path, err)
		}
	}
	if !r.spec.Root.Readonly {
		return nil
	}
	if err := readonly(r.root.fd); err != nil {
		return fmt.Errorf("make root file system read-only: %w", err)
	}
	return nil
}

// readonly makes the mount itself read-only, and not those below.
func readonly(tree int) error {
	return unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
}

func (r *rootfs) freeze(path string) error {
	place, err := r.root.find(path)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(place)
	tree, err := cloneTree(place, "", true)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	if err := readonly(tree); err != nil {
		return err
	}
	return moveTo(tree, place)
}

func (r *rootfs) mask(path string) error {
	place, err := r.root.find(path)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(place)
	var st unix.Stat_t
	if err := unix.Fstat(place, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return r.maskDirectory(place)
	}
	tree, err := cloneTree(unix.AT_FDCWD, "/dev/null", false)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	// It is the guest's own, whose mode and owner are not the container's to change.
	if err := readonly(tree); err != nil {
		return err
	}
	return moveTo(tree, place)
}

// maskDirectory shows an empty directory, which all masked ones share. A mount can be
// copied from the moment on at which it is attached.
func (r *rootfs) maskDirectory(place int) error {
	if r.blank == nil {
		tree, err := makeBlank()
		if err != nil {
			return err
		}
		r.blank = os.NewFile(uintptr(tree), "blank")
		return moveTo(tree, place)
	}
	tree, err := cloneTree(int(r.blank.Fd()), "", false)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	return moveTo(tree, place)
}

func makeBlank() (int, error) {
	ctx, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(ctx)
	if err := unix.FsconfigSetString(ctx, "nr_inodes", "1"); err != nil {
		return -1, err
	}
	if err := unix.FsconfigCreate(ctx); err != nil {
		return -1, err
	}
	return unix.Fsmount(ctx, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
}
