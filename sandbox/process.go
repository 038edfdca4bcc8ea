package sandbox

import (
	"bytes"
	"fmt"
	"os"
	"strconv"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// process is a process of somebody else's that is watched.
type process struct {
	// pidfd is registered with the Go runtime's poller, so that waiting takes no thread.
	pidfd *os.File
}

// openProcess opens the process pid that was started at start (field 22 of
// /proc/PID/stat). errdefs.ErrNotFound: it is gone, or its pid is another's now.
func openProcess(pid int, start uint64) (*process, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("open process: %w: %w", errdefs.ErrNotFound, err)
	}
	p := &process{pidfd: os.NewFile(uintptr(fd), "pidfd")}
	if now, err := startTime(pid); err != nil || now != start {
		p.close()
		return nil, fmt.Errorf("open process: %w", errdefs.ErrNotFound)
	}
	return p, nil
}

// wait returns when the process has ended, or with false if p is closed before.
func (p *process) wait() bool {
	conn, err := p.pidfd.SyscallConn()
	if err != nil {
		return false
	}
	return conn.Read(func(fd uintptr) bool {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(poll, 0)
		return err == nil && n > 0
	}) == nil
}

func (p *process) close() { _ = p.pidfd.Close() }

// startTime is when a process was started, in ticks since boot: with the pid it names
// the process for good.
func startTime(pid int) (uint64, error) {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, fmt.Errorf("read start time: %w: %w", errdefs.ErrNotFound, err)
	}
	// The name in parentheses may hold anything; field 3 follows the last of them.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 20 {
		return 0, fmt.Errorf("read start time: %w", errdefs.ErrInternal)
	}
	v, err := strconv.ParseUint(string(fields[19]), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read start time: %w: %w", errdefs.ErrInternal, err)
	}
	return v, nil
}
