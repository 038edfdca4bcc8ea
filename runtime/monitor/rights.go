package monitor

import (
	"fmt"
	"net"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// maxFDs is how many descriptors one message may carry: pidfd, terminal, input.
const maxFDs = 4

// receiveFDs reads one message with the descriptors that come with it, which are made
// non-blocking and closed on exec.
func receiveFDs(conn *net.UnixConn, buf []byte) (fds []int, n int, err error) {
	control := make([]byte, unix.CmsgSpace(maxFDs*4))
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
			unix.CloseOnExec(fd)
			_ = unix.SetNonblock(fd, true) // of an open descriptor it cannot fail
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

func closeFDs(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}
