package monitor

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// inPrivateMounts runs fn on a thread of its own in a copy of the mount namespace that
// vanishes with the thread, unless a process started by fn keeps it. Mounts of the
// copy stay peers of the host's, so that what is mounted later reaches containers.
func inPrivateMounts(fn func() error) error {
	return onOwnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("unshare mount namespace: %w", err)
		}
		return fn()
	})
}

// onOwnThread runs fn on a thread that ends with it, so that fn may change what belongs
// to the thread.
func onOwnThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The main thread cannot be thrown away, and its namespaces are what /proc
			// shows as the process's. Keep it busy while another thread does the work.
			done <- onOwnThread(fn)
			runtime.UnlockOSThread()
			return
		}
		done <- fn() // not unlocked: the thread ends with this goroutine
	}()
	return <-done
}

// makePrivate cuts the mount that path lies on from its peers in this namespace.
func makePrivate(path string) error {
	point, err := mountPoint(path)
	if err != nil {
		return err
	}
	if err := unix.Mount("", point, "", unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mount %s private: %w", point, err)
	}
	return nil
}

// mountPoint finds the mount point of the mount that path lies on. The mount table of
// the thread is read, not that of the process.
func mountPoint(path string) (string, error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_STATX_DONT_SYNC, unix.STATX_MNT_ID, &st); err != nil {
		return "", fmt.Errorf("find mount of %s: %w", path, err)
	}
	f, err := os.Open("/proc/thread-self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("read mount table: %w", err)
	}
	defer f.Close()
	want := fmt.Sprintf("%d ", st.Mnt_id)
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if !strings.HasPrefix(lines.Text(), want) {
			continue
		}
		if fields := strings.Fields(lines.Text()); len(fields) > 4 {
			return unescape(fields[4]), nil
		}
	}
	return "", fmt.Errorf("find mount of %s: %w", path, errors.Join(lines.Err(), unix.ENOENT))
}

// unescape undoes the octal escapes of mountinfo.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// hybridMount is where cgroup v2 lies on hosts that mostly use v1.
const hybridMount = "/sys/fs/cgroup/unified"

// hideUnified unmounts the v2 hierarchy of a hybrid host in this namespace: crun
// refuses to work beside a controller that is used there.
func hideUnified() error {
	var st unix.Statfs_t
	if unix.Statfs(hybridMount, &st) != nil || st.Type != unix.CGROUP2_SUPER_MAGIC {
		return nil
	}
	if err := makePrivate(filepath.Dir(hybridMount)); err != nil {
		return err
	}
	if err := unix.Unmount(hybridMount, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("hide %s: %w", hybridMount, err)
	}
	return nil
}

// hybrid reports whether this host mixes cgroup v1 and v2.
func hybrid() bool {
	var st unix.Statfs_t
	return unix.Statfs(hybridMount, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
}
