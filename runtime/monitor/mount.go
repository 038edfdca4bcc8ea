package monitor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime/inroot"
)

// mountAll mounts the overlays of a container in the thread's private namespace.
func mountAll(bundle string, overlays []Overlay) error {
	if len(overlays) == 0 {
		return nil
	}
	if err := makePrivate(bundle); err != nil {
		return err
	}
	for i, o := range overlays {
		if err := mountOverlay(bundle, i, o); err != nil {
			return fmt.Errorf("mount %s: %w", o.Target, err)
		}
	}
	return nil
}

func mountOverlay(bundle string, n int, o Overlay) error {
	if len(o.Lower) == 0 || !filepath.IsLocal(o.Target) {
		return fmt.Errorf("check overlay: no lower directory, or a target outside the bundle: %w", errdefs.ErrInvalidArgument)
	}
	target := filepath.Join(bundle, o.Target)
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	if o.UserNS != "" {
		mapped, err := mapLowers(filepath.Join(bundle, "lower", strconv.Itoa(n)), o.Lower, o.UserNS)
		if err != nil {
			return err
		}
		o.Lower = mapped
	}
	tree, err := openStack(filepath.Join(bundle, "lower", "names-"+strconv.Itoa(n)), o)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	if err := moveMount(tree, target); err != nil || o.SubPath == "" {
		return err
	}
	return narrow(tree, o.SubPath, target)
}

// narrow replaces a tree that is attached at target by a directory in it. Before Linux 6.15
// only what is attached can be cloned.
func narrow(tree int, path, target string) error {
	sub, err := openSub(tree, path)
	if err != nil {
		return err
	}
	defer unix.Close(sub)
	if err := unix.Unmount(target, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("detach the whole image: %w", err)
	}
	return moveMount(sub, target)
}

func moveMount(tree int, target string) error {
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("attach mount: %w", err)
	}
	return nil
}

// openStack returns a detached mount of the overlay. names is for a directory that
// exists only meanwhile.
func openStack(names string, o Overlay) (int, error) {
	if o.Upper == "" && len(o.Lower) == 1 {
		// overlayfs wants two directories; one alone needs no overlay.
		return cloneMount(o.Lower[0], &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
	}
	if !takesLowers() {
		return openNamedStack(names, o)
	}
	ctx, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("open overlay: %w", err)
	}
	defer unix.Close(ctx)
	if err := configure(ctx, o); err != nil {
		return -1, errors.Join(err, fsMessages(ctx))
	}
	if err := unix.FsconfigCreate(ctx); err != nil {
		return -1, fmt.Errorf("create overlay: %w", errors.Join(err, fsMessages(ctx)))
	}
	attr := 0
	if o.Upper == "" {
		attr = unix.MOUNT_ATTR_RDONLY
	}
	tree, err := unix.Fsmount(ctx, unix.FSMOUNT_CLOEXEC, attr)
	if err != nil {
		return -1, fmt.Errorf("mount overlay: %w", err)
	}
	return tree, nil
}

func configure(ctx int, o Overlay) error {
	set := func(key, value string) error {
		if err := unix.FsconfigSetString(ctx, key, value); err != nil {
			return fmt.Errorf("set %s=%s: %w", key, value, err)
		}
		return nil
	}
	for i := len(o.Lower) - 1; i >= 0; i-- { // the uppermost first
		if err := set("lowerdir+", o.Lower[i]); err != nil {
			return err
		}
	}
	if o.Upper != "" {
		if err := errors.Join(set("upperdir", o.Upper), set("workdir", o.Work)); err != nil {
			return err
		}
	}
	for _, option := range o.Options {
		key, value, found := strings.Cut(option, "=")
		var err error
		if found {
			err = set(key, value)
		} else {
			err = unix.FsconfigSetFlag(ctx, key)
		}
		if err != nil {
			return fmt.Errorf("set option %s: %w", option, err)
		}
	}
	return nil
}

// fsMessages returns what the kernel has to say about a failed configuration.
func fsMessages(ctx int) error {
	buf := make([]byte, 1024)
	n, err := unix.Read(ctx, buf)
	if err != nil || n <= 0 {
		return nil
	}
	return errors.New(strings.TrimSpace(string(buf[:n])))
}

// mapLowers id-maps directories into a user namespace and attaches them below dir: an
// overlay takes only lowers that stand in a mount namespace.
func mapLowers(dir string, lower []string, userNS string) ([]string, error) {
	ns, err := unix.Open(userNS, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open user namespace: %w", err)
	}
	defer unix.Close(ns)
	var mapped []string
	for i, path := range lower {
		target := filepath.Join(dir, strconv.Itoa(i))
		if err := os.MkdirAll(target, 0o700); err != nil {
			return nil, err
		}
		attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns)}
		tree, err := cloneMount(path, attr)
		if err != nil {
			return nil, fmt.Errorf("id-map %s: %w", path, err)
		}
		err = moveMount(tree, target)
		unix.Close(tree)
		if err != nil {
			return nil, err
		}
		mapped = append(mapped, target)
	}
	return mapped, nil
}

// cloneMount returns a detached copy of the mount at path, with attr applied.
func cloneMount(path string, attr *unix.MountAttr) (int, error) {
	tree, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("clone mount %s: %w", path, err)
	}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, attr); err != nil {
		unix.Close(tree)
		return -1, fmt.Errorf("set attributes of mount %s: %w", path, err)
	}
	return tree, nil
}

// openSub returns a detached mount of a directory in an attached tree. Symbolic links in the
// tree, which an image wrote, cannot lead out of it.
func openSub(tree int, path string) (int, error) {
	dir, err := inroot.Open(tree, path, unix.O_PATH)
	if err != nil {
		return -1, fmt.Errorf("open %s in the image: %w", path, err)
	}
	defer unix.Close(dir)
	sub, err := unix.OpenTree(dir, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return -1, fmt.Errorf("clone %s in the image: %w", path, err)
	}
	return sub, nil
}
