package monitor

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// procStat is the part of /proc/PID/stat that is used here.
type procStat struct {
	state   byte
	parent  int
	session int
	threads int
	start   uint64 // clock ticks since boot
}

// dead reports whether nothing runs in the process any more. The first thread may be a
// zombie while others still do.
func (p procStat) dead() bool { return (p.state == 'Z' || p.state == 'X') && p.threads <= 1 }

func readProc(pid int) (procStat, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return procStat{}, err
	}
	// The name in parentheses may contain anything, so look for its end from behind.
	i := bytes.LastIndexByte(b, ')')
	if i < 0 || i+2 > len(b) {
		return procStat{}, fmt.Errorf("parse stat of %d: %w", pid, errdefs.ErrInternal)
	}
	f := strings.Fields(string(b[i+1:]))
	if len(f) < 20 {
		return procStat{}, fmt.Errorf("parse stat of %d: %w", pid, errdefs.ErrInternal)
	}
	st := procStat{state: f[0][0]}
	st.parent, _ = strconv.Atoi(f[1])
	st.session, _ = strconv.Atoi(f[3])
	st.threads, _ = strconv.Atoi(f[17])
	st.start, err = strconv.ParseUint(f[19], 10, 64)
	return st, err
}

// openProcess opens a pidfd for the process, which must still be the one that started
// at start. ErrNotFound if it is not; a zombie can be opened.
func openProcess(pid int, start uint64) (*os.File, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w: %w", pid, errdefs.ErrNotFound, err)
	}
	// Checked after the pidfd is open: now the pid cannot change its owner unseen.
	st, err := readProc(pid)
	if err != nil || st.start != start {
		unix.Close(fd)
		return nil, fmt.Errorf("open process %d: %w", pid, errdefs.ErrNotFound)
	}
	return os.NewFile(uintptr(fd), "pidfd"), nil
}

// waitProcess blocks until the process of a pidfd has ended or the pidfd is closed.
func waitProcess(pidfd *os.File) error {
	raw, err := pidfd.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Read(func(fd uintptr) bool {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(p, 0)
		return err == nil && n > 0 && p[0].Revents != 0
	})
}

// waitProcessFor is waitProcess for at most d. ErrUnavailable if that was too short. One
// call at a time.
func waitProcessFor(pidfd *os.File, d time.Duration) error {
	if err := pidfd.SetReadDeadline(time.Now().Add(d)); err != nil {
		return err
	}
	err := waitProcess(pidfd)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("%w: %w", errdefs.ErrUnavailable, err)
	}
	return err
}

// sendSignal signals a process through its pidfd. A process that is gone is no error.
func sendSignal(pidfd *os.File, sig unix.Signal) error {
	raw, err := pidfd.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = unix.PidfdSendSignal(int(fd), sig, nil, 0) }); err != nil {
		return nil // closed: it has exited
	}
	if errors.Is(failed, unix.ESRCH) {
		return nil
	}
	return failed
}

// pidfdGetInfo is PIDFD_GET_INFO for the 64 byte structure of Linux 6.13; what is
// known of the exit is included from Linux 6.15 on.
const (
	pidfdGetInfo  = 3<<30 | 64<<16 | 0xFF<<8 | 11
	pidfdInfoExit = 1 << 3
)

// exitOf asks the kernel how the process of a pidfd ended. It knows only after the
// process was reaped, and only through a pidfd opened before.
func exitOf(pidfd *os.File) (int32, bool) {
	raw, err := pidfd.SyscallConn()
	if err != nil {
		return 0, false
	}
	info := make([]byte, 64)
	binary.NativeEndian.PutUint64(info, pidfdInfoExit)
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = ioctlBytes(fd, pidfdGetInfo, info) }); err != nil || failed != nil {
		return 0, false
	}
	if binary.NativeEndian.Uint64(info)&pidfdInfoExit == 0 {
		return 0, false
	}
	return codeOf(unix.WaitStatus(binary.NativeEndian.Uint32(info[60:]))), true
}

// reapTime is how long process 1 may take to reap a child that it inherited.
const reapTime = 2 * time.Second

// exitSoon is exitOf with patience: whoever inherited the process has to reap it
// first.
func exitSoon(pidfd *os.File) (int32, bool) {
	pause := time.Millisecond
	for waited := time.Duration(0); ; waited += pause {
		if code, ok := exitOf(pidfd); ok || waited > reapTime {
			return code, ok
		}
		time.Sleep(pause)
		pause = min(pause*2, 100*time.Millisecond)
	}
}

func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}
