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

// orphanTime bounds how long a plugin that nobody waits for may go on before it is killed.
const orphanTime = 5 * time.Second

// endOrphans returns when no plugin works any more that has been called for a pod, by a
// killed daemon or by a call that has run out of time: what it added after a DEL would stay
// for ever. It and what it has started are known by their environment.
func endOrphans(ctx context.Context, id string) error {
	for found := true; found; { // again for what they have started meanwhile
		var err error
		if found, err = endOrphansOnce(ctx, []byte("CNI_CONTAINERID="+id)); err != nil {
			return fmt.Errorf("wait for a plugin that was left behind: %w", err)
		}
	}
	return nil
}

func endOrphansOnce(ctx context.Context, mark []byte) (found bool, err error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return false, err
	}
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
			found, err = true, awaitEnd(ctx, fd)
		} else {
			err = nil
		}
		_ = unix.Close(fd)
		if err != nil {
			return found, err
		}
	}
	return found, nil
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
