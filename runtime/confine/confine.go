// Package confine lets a process of the host give up what it has of the host before it
// shares a PID namespace with containers, for which it is process 1. A container with
// CAP_SYS_PTRACE may look into it, and even have it run code of the container's.
package confine

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// marker is in the environment of a process that Self has confined.
const marker = "CRICKET_CONFINED=1"

// Self replaces the calling process by its own program, with the same arguments, in an
// empty read-only root directory, without any capability or a way to get one, and out of
// the host's network, IPC and UTS namespaces. In that process Self returns nil at once;
// otherwise it returns only if it fails.
//
// The program is started anew because namespaces and capabilities belong to threads,
// and a Go program always has several. It must be linked statically.
func Self() error {
	if os.Getenv("CRICKET_CONFINED") != "" {
		// For ps(1), and so that nobody who looks for the program by name finds this.
		return setName("pod-init")
	}
	runtime.LockOSThread()
	program, err := unix.Open("/proc/self/exe", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open own program: %w", err)
	}
	if err := leaveNamespaces(); err != nil {
		return err
	}
	if err := emptyRoot(); err != nil {
		return err
	}
	if err := dropCapabilities(); err != nil {
		return err
	}
	return execute(program, os.Args, append(os.Environ(), marker))
}

// setName names the calling thread, which at the start of main is the process's first.
func setName(name string) error {
	text, err := unix.BytePtrFromString(name)
	if err != nil {
		return fmt.Errorf("encode name: %w", err)
	}
	return unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(text)), 0, 0, 0)
}

// leaveNamespaces stays in those that were made together with a user namespace: they
// are the pod's, and others find them through this process.
func leaveNamespaces() error {
	flags := unix.CLONE_NEWNS
	ids, err := os.ReadFile("/proc/thread-self/uid_map")
	if err != nil {
		return fmt.Errorf("read user namespace: %w", err)
	}
	if strings.Join(strings.Fields(string(ids)), " ") == "0 0 4294967295" {
		flags |= unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS
	}
	if err := unix.Unshare(flags); err != nil {
		return fmt.Errorf("leave namespaces: %w", err)
	}
	return nil
}

func emptyRoot() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	const at = "/proc" // any directory that exists everywhere
	const flags = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := unix.Mount("empty", at, "tmpfs", flags, "mode=555"); err != nil {
		return fmt.Errorf("mount empty directory: %w", err)
	}
	if err := unix.Chdir(at); err != nil {
		return fmt.Errorf("enter empty directory: %w", err)
	}
	// The old root ends up on top of the new one, from where it is taken away.
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("change root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave old root: %w", err)
	}
	return unix.Chdir("/")
}

// dropCapabilities empties the bounding set: what is not in it, exec does not give.
func dropCapabilities() error {
	for c := uintptr(0); ; c++ {
		err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		if errors.Is(err, unix.EINVAL) && c > 0 {
			break // beyond the last one
		}
		if err != nil {
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("renounce privileges: %w", err)
	}
	return nil
}

func execute(program int, args, env []string) error {
	argv, err := syscall.SlicePtrFromStrings(args)
	if err != nil {
		return fmt.Errorf("encode arguments: %w", err)
	}
	envv, err := syscall.SlicePtrFromStrings(env)
	if err != nil {
		return fmt.Errorf("encode environment: %w", err)
	}
	empty, err := unix.BytePtrFromString("")
	if err != nil {
		return fmt.Errorf("encode path: %w", err)
	}
	_, _, errno := unix.RawSyscall6(unix.SYS_EXECVEAT, uintptr(program), uintptr(unsafe.Pointer(empty)),
		uintptr(unsafe.Pointer(&argv[0])), uintptr(unsafe.Pointer(&envv[0])), unix.AT_EMPTY_PATH, 0)
	runtime.KeepAlive(argv)
	runtime.KeepAlive(envv)
	return fmt.Errorf("start program again: %w", errno)
}
