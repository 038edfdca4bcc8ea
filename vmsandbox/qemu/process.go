package qemu

import (
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// watchProcess returns a channel that is closed when the process has ended, and the
// descriptor that it is watched by. Closing that gives up the watch, and leaves the
// channel open.
func watchProcess(pid int) (*os.File, <-chan struct{}, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, nil, fmt.Errorf("watch process: %w: %w", errdefs.ErrUnavailable, err)
	}
	pidfd := os.NewFile(uintptr(fd), "pidfd")
	raw, err := pidfd.SyscallConn()
	if err != nil {
		pidfd.Close()
		return nil, nil, fmt.Errorf("watch process: %w", err)
	}
	done := make(chan struct{})
	go func() { // ends with the process, or when pidfd is closed
		err := raw.Read(func(fd uintptr) bool {
			p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			n, err := unix.Poll(p, 0)
			return err == nil && n > 0 && p[0].Revents != 0
		})
		if err == nil {
			close(done)
		}
	}()
	return pidfd, done, nil
}
