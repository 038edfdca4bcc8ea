package netns

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Do runs f on a thread that is in the network namespace at path. Sockets that f opens
// stay in that namespace; goroutines that it starts are not in it.
func Do(path string, f func() error) error {
	return onThread([]specs.LinuxNamespaceType{specs.NetworkNamespace}, func() error {
		if err := enter(path, unix.CLONE_NEWNET); err != nil {
			return err
		}
		return f()
	})
}

// onThread runs f on a locked thread of its own and then takes the thread back to its
// namespaces of the given types. A thread that cannot go back is never used again.
func onThread(types []specs.LinuxNamespaceType, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		homes, err := openHomes(types)
		if err != nil {
			runtime.UnlockOSThread()
			done <- err
			return
		}
		err = f()
		back := goHome(homes)
		if back == nil {
			runtime.UnlockOSThread()
		}
		// Otherwise the goroutine ends locked, and its thread with it.
		done <- errors.Join(err, back)
	}()
	return <-done
}

// home is a namespace that a thread is to return to.
type home struct {
	fd   int
	flag int
}

func openHomes(types []specs.LinuxNamespaceType) (_ []home, err error) {
	homes := make([]home, 0, len(types))
	defer func() {
		if err != nil {
			closeHomes(homes)
		}
	}()
	for _, t := range types {
		flag, err := cloneFlag(t)
		if err != nil {
			return nil, err
		}
		fd, err := unix.Open("/proc/thread-self/ns/"+procName(t), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("open own %s namespace: %w", t, err)
		}
		homes = append(homes, home{fd: fd, flag: flag})
	}
	return homes, nil
}

func goHome(homes []home) error {
	defer closeHomes(homes)
	for _, h := range homes {
		if err := unix.Setns(h.fd, h.flag); err != nil {
			return fmt.Errorf("return to own namespace: %w", err)
		}
	}
	return nil
}

func closeHomes(homes []home) {
	for _, h := range homes {
		_ = unix.Close(h.fd)
	}
}

func enter(path string, flag int) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open namespace: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.Setns(fd, flag); err != nil {
		return fmt.Errorf("enter namespace: %w", err)
	}
	return nil
}
