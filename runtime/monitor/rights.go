package monitor

import (
	"fmt"
	"net"
	"os"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// maxFDs is how many descriptors are kept of a container: pidfd, terminal, input.
const maxFDs = 4

// receiveFDs reads one message with the descriptors that come with it, at most limit,
// which are made closed on exec.
func receiveFDs(conn *net.UnixConn, buf []byte, limit int) (fds []int, n int, err error) {
	control := make([]byte, unix.CmsgSpace(limit*4))
	n, oobn, flags, _, err := conn.ReadMsgUnix(buf, control)
	if err != nil {
		return nil, 0, err
	}
	messages, err := unix.ParseSocketControlMessage(control[:oobn])
	if err != nil {
		return nil, n, err
	}
	for _, m := range messages {
		got, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue // credentials, say
		}
		for _, fd := range got {
			unix.CloseOnExec(fd) // Go's own recvmsg asks for it already
		}
		fds = append(fds, got...)
	}
	if flags&unix.MSG_CTRUNC != 0 {
		closeFDs(fds)
		return nil, n, fmt.Errorf("receive descriptors: too many: %w", errdefs.ErrInvalidArgument)
	}
	return fds, n, nil
}

// fdsFollow is the one byte that descriptors travel with. It is no frame's type.
const fdsFollow = 0

func sendFDs(conn net.Conn, fds []int) error {
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return fmt.Errorf("send descriptors over %T: %w", conn, errdefs.ErrNotImplemented)
	}
	if _, _, err := u.WriteMsgUnix([]byte{fdsFollow}, unix.UnixRights(fds...), nil); err != nil {
		return fmt.Errorf("send descriptors: %w", err)
	}
	return nil
}

// sendFiles sends the descriptors of files, which stay as they are.
func sendFiles(conn net.Conn, files []*os.File) error {
	fds := make([]int, 0, len(files))
	// One callback within the other: a number is valid only in there.
	var send func(rest []*os.File) error
	send = func(rest []*os.File) error {
		if len(rest) == 0 {
			return sendFDs(conn, fds)
		}
		raw, err := rest[0].SyscallConn()
		if err != nil {
			return fmt.Errorf("send descriptors: %w", err)
		}
		var failed error
		err = raw.Control(func(fd uintptr) {
			fds = append(fds, int(fd))
			failed = send(rest[1:])
		})
		if err != nil {
			return fmt.Errorf("send descriptors: %w", err)
		}
		return failed
	}
	return send(files)
}

// unblock makes descriptors fit for waiting. It is shared with whoever sent them.
func unblock(fds []int) {
	for _, fd := range fds {
		_ = unix.SetNonblock(fd, true) // of an open descriptor it cannot fail
	}
}

func closeFDs(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}
