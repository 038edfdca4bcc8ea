package monitor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// takesLowers reports whether the kernel takes an overlay's lower directories one by
// one (Linux 6.7). Its version says so, because before Linux 6.5 the option itself is
// refused only with everything else.
func takesLowers() bool {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return false
	}
	return releaseTakesLowers(unix.ByteSliceToString(u.Release[:]))
}

func releaseTakesLowers(release string) bool {
	var major, minor int
	if n, _ := fmt.Sscanf(release, "%d.%d", &major, &minor); n != 2 {
		return false
	}
	return major > 6 || major == 6 && minor >= 7
}

// openNamedStack returns a detached mount of the overlay on any kernel. It goes by
// mount(2), which takes a page of options, where a string of fsconfig(2) has 255 bytes;
// and the directories have names of a few bytes below names, which are symbolic links
// to them and need no escaping. names is made, and is gone afterwards.
//
// It changes directory: the calling thread must have a private mount namespace, with
// which it has a working directory of its own. The mount that names lies on must be
// private.
func openNamedStack(names string, o Overlay) (tree int, err error) {
	source, rest := splitSource(o.Options)
	options, err := nameDirs(names, o, rest)
	defer func() { err = errors.Join(err, os.RemoveAll(names)) }()
	if err != nil {
		return -1, fmt.Errorf("name directories of overlay: %w", err)
	}
	back, err := unix.Open(".", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open working directory: %w", err)
	}
	defer unix.Close(back)
	if err := unix.Chdir(names); err != nil {
		return -1, fmt.Errorf("enter %s: %w", names, err)
	}
	flags := uintptr(0)
	if o.Upper == "" {
		flags = unix.MS_RDONLY
	}
	err = unix.Mount(source, ".", "overlay", flags, options)
	if back := unix.Fchdir(back); err == nil && back != nil {
		err = errors.Join(back, unix.Unmount(names, unix.MNT_DETACH))
	}
	if err != nil {
		return -1, fmt.Errorf("mount overlay: %w", err)
	}
	tree, err = unix.OpenTree(unix.AT_FDCWD, names, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		err = fmt.Errorf("clone overlay: %w", err)
	}
	if gone := unix.Unmount(names, unix.MNT_DETACH); gone != nil {
		err = errors.Join(err, fmt.Errorf("unmount overlay: %w", gone))
	}
	return tree, err
}

// splitSource takes the option out that mount(2) has an argument for.
func splitSource(options []string) (source string, rest []string) {
	source = "overlay"
	for _, o := range options {
		if s, found := strings.CutPrefix(o, "source="); found {
			source = s
		} else {
			rest = append(rest, o)
		}
	}
	return source, rest
}

// nameDirs makes the links and returns the options that use them, and others.
func nameDirs(names string, o Overlay, others []string) (options string, err error) {
	if err := os.MkdirAll(names, 0o700); err != nil {
		return "", err
	}
	link := func(dir, name string) error {
		if dir, err = filepath.Abs(dir); err != nil {
			return err
		}
		return os.Symlink(dir, filepath.Join(names, name))
	}
	var lowers []string
	for i := len(o.Lower) - 1; i >= 0; i-- { // the uppermost first
		name := strconv.FormatInt(int64(i), 36)
		if err := link(o.Lower[i], name); err != nil {
			return "", err
		}
		lowers = append(lowers, name)
	}
	all := []string{"lowerdir=" + strings.Join(lowers, ":")}
	if o.Upper != "" {
		if err := errors.Join(link(o.Upper, "upper"), link(o.Work, "work")); err != nil {
			return "", err
		}
		all = append(all, "upperdir=upper", "workdir=work")
	}
	return strings.Join(append(all, others...), ","), nil
}
