package harness

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// MonitorPid asks the kernel who listens on the socket of Cricket's monitor.
func (p Paths) MonitorPid() (int, error) {
	conn, err := net.Dial("unix", filepath.Join(p.State, "monitor.sock"))
	if err != nil {
		return 0, fmt.Errorf("find the monitor: %w", err)
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err = errors.Join(err, credErr); err != nil {
		return 0, fmt.Errorf("find the monitor: %w", err)
	}
	return int(cred.Pid), nil
}
