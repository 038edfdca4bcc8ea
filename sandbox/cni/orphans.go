package cni

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// orphanTime bounds how long a plugin of a killed daemon may go on before it is killed.
const orphanTime = 5 * time.Second

// endOrphans returns when no plugin works any more that a killed daemon has called for a
// pod: what it added after a DEL would stay for ever. It and what it has started are
// known by their environment.
func endOrphans(ctx context.Context, id string) error {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return fmt.Errorf("look for plugins: %w", err)
	}
	mark := []byte("CNI_CONTAINERID=" + id)
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue // ended meanwhile
		}
		// Read after the pidfd is open, so that it is of the same process.
		environ, err := os.ReadFile("/proc/" + e.Name() + "/environ")
		if err == nil && contains(bytes.Split(environ, []byte{0}), mark) {
			err = awaitEnd(ctx, fd)
		} else {
			err = nil
		}
		_ = unix.Close(fd)
		if err != nil {
			return fmt.Errorf("wait for the plugin of a killed daemon: %w", err)
		}
	}
	return nil
}

func contains(list [][]byte, want []byte) bool {
	for _, s := range list {
		if bytes.Equal(s, want) {
			return true
		}
	}
	return false
}

// awaitEnd waits for the end of a process that is not a child, and kills it if it takes
// too long.
func awaitEnd(ctx context.Context, pidfd int) error {
	const step = 50 * time.Millisecond // after which ctx is looked at
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	for waited := time.Duration(0); waited < 2*orphanTime; waited += step {
		if n, _ := unix.Poll(fds, int(step.Milliseconds())); n > 0 {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if waited >= orphanTime {
			_ = unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)
		}
	}
	return errdefs.ErrUnavailable
}
