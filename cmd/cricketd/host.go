package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// lock makes this the only daemon of a directory. The lock ends with the process.
func lock(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, fmt.Errorf("make %s: %w; run cricketd as root", dir, err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "cricketd.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = fmt.Errorf("another cricketd uses %s: stop it, or give this one directories of its own (--root, --state, --socket)", dir)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// ensureTmpfs mounts a tmpfs on the state directory if a reboot would not empty it. If
// something serves in the directory already it stays as it is: hiding that would lose
// it.
func ensureTmpfs(dir, monitorSocket string, log *slog.Logger) error {
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return fmt.Errorf("make %s: %w; run cricketd as root", dir, err)
	}
	if err := letThrough(dir); err != nil {
		return err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("examine %s: %w", dir, err)
	}
	if st.Type == unix.TMPFS_MAGIC || st.Type == unix.RAMFS_MAGIC {
		return nil
	}
	if answers(monitorSocket) {
		log.Warn("state directory is not a tmpfs, and a monitor uses it already", "dir", dir)
		return nil
	}
	if err := unix.Mount("cricket", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0711"); err != nil {
		return fmt.Errorf("mount a tmpfs on %s: %w; mount one there yourself, or choose a --state on one", dir, err)
	}
	log.Info("mounted a tmpfs for the state", "dir", dir)
	return nil
}

// letThrough lets pods with user namespaces of their own pass through a directory that
// somebody else has made.
func letThrough(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("examine %s: %w", dir, err)
	}
	if info.Mode()&0o001 != 0 {
		return nil
	}
	if err := os.Chmod(dir, info.Mode()|0o011); err != nil {
		return fmt.Errorf("let pods pass through %s: %w", dir, err)
	}
	return nil
}

func answers(socket string) bool {
	c, err := net.DialTimeout("unix", socket, time.Second)
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// listen makes the socket of the CRI. One that a dead daemon left is replaced; one that
// somebody answers on is not.
func listen(ctx context.Context, socket string) (net.Listener, error) {
	if answers(socket) {
		return nil, fmt.Errorf("somebody else serves %s: stop it, or choose another --socket", socket)
	}
	if err := os.MkdirAll(filepath.Dir(socket), 0o711); err != nil {
		return nil, fmt.Errorf("make directory of socket: %w", err)
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove stale socket: %w", err)
	}
	private := net.ListenConfig{Control: keepPrivate}
	l, err := private.Listen(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w; choose another --socket", socket, err)
	}
	return l, nil
}

// keepPrivate lets only the owner connect to a socket, from its first moment on: unix(7) gives
// the file the mode of the descriptor that is bound. The umask is the whole process's, whose
// other threads make files meanwhile.
func keepPrivate(_, _ string, c syscall.RawConn) error {
	var err error
	if controlErr := c.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), 0o600) }); controlErr != nil {
		return controlErr
	}
	return os.NewSyscallError("fchmod", err)
}

// growDescriptors makes the table of descriptors large at once: growing it later, with
// many threads, costs tens of milliseconds each time.
func growDescriptors() {
	const want = 8192
	var lim unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &lim) != nil || lim.Cur < 64 {
		return
	}
	at := int(min(want, lim.Cur-1))
	if fd, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, at); err == nil {
		unix.Close(fd)
	}
}

func bootID() (string, error) {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot id: %w; is /proc mounted?", err)
	}
	return strings.TrimSpace(string(text)), nil
}
