package monitor

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// podInitArg is the argument that makes a monitor's program a pod's first process. The
// pod's id follows it. It is also what the confined process says of itself.
const podInitArg = "pod-init"

// The descriptors that Hold gives to a pod init beside null streams.
const (
	// initPipe is where it reports: podInitArg when it is confined, or else why it could
	// not be.
	initPipe = 3
	// initProgram is the program that it becomes.
	initProgram = 4
)

// nobody is the user and group of a confined process.
const nobody = 65534

// PodInit is process 1 of a shared PID namespace. Hold has started it in namespaces of
// its own; it gives up everything else that it has of the host, and becomes a program
// of a few instructions that does nothing. It never returns. Ignoring SIGCHLD lets the
// kernel reap every orphan, and a signal from inside the namespace cannot end it.
//
// Containers of the pod share the namespace with it, and those with CAP_SYS_PTRACE may
// do with it whatever they like: it must not have anything that they have not.
//
// Without the pipe it was not started by Hold, and the caller has confined it.
func PodInit() {
	signal.Ignore()
	var st unix.Stat_t
	if unix.Fstat(initPipe, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFIFO {
		for {
			_ = unix.Pause()
		}
	}
	runtime.LockOSThread() // privileges belong to threads; the others end with exec
	err := confine()
	if err == nil {
		err = becomeIdle(os.Args)
	}
	_, _ = unix.Write(initPipe, []byte(err.Error())) // to a monitor that may be gone
	os.Exit(1)
}

// confine takes from the calling thread what the rest of its life does not need. The
// order matters: every step needs what later ones take.
func confine() error {
	if err := closeOnExec(); err != nil {
		return err
	}
	if err := emptyRoot(); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("renounce new privileges: %w", err)
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("clear ambient capabilities: %w", err)
	}
	for c := uintptr(0); ; c++ {
		err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		if errors.Is(err, unix.EINVAL) && c > unix.CAP_WAKE_ALARM {
			break // the kernel knows no more
		}
		if err != nil {
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
	if err := becomeNobody(); err != nil {
		return err
	}
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capset(&head, &make([]unix.CapUserData, 2)[0]); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	return nil
}

// closeOnExec marks whatever came from the monitor.
func closeOnExec() error {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return fmt.Errorf("list descriptors: %w", err)
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			return fmt.Errorf("list descriptors: %w", err)
		}
		unix.CloseOnExec(fd)
	}
	return nil
}

// emptyRoot leaves an empty file system of the mount namespace, which is the process's
// own already.
func emptyRoot() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	const flags = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	const place = "/proc" // any directory that is everywhere
	if err := unix.Mount("none", place, "tmpfs", flags, "mode=0555,size=4096,nr_inodes=2"); err != nil {
		return fmt.Errorf("mount empty root: %w", err)
	}
	if err := unix.Chdir(place); err != nil {
		return fmt.Errorf("enter empty root: %w", err)
	}
	// The old root comes to lie upon the new one, whence it is taken away.
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("change root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("detach the host's root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("enter empty root: %w", err)
	}
	return nil
}

// becomeNobody changes the ids of the thread. In a user namespace without those of
// nobody, root, which the host does not know, remains.
func becomeNobody() error {
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0); errno != 0 {
		return fmt.Errorf("drop groups: %w", errno)
	}
	for _, call := range []uintptr{unix.SYS_SETRESGID, unix.SYS_SETRESUID} {
		_, _, errno := unix.RawSyscall(call, nobody, nobody, nobody)
		if errno == unix.EINVAL {
			_, _, errno = unix.RawSyscall(call, 0, 0, 0)
		}
		if errno != 0 {
			return fmt.Errorf("change user: %w", errno)
		}
	}
	return nil
}
