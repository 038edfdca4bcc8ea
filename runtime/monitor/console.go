package monitor

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// consoleSocket receives the master of a pseudo-terminal from an OCI runtime.
type consoleSocket struct {
	path string
	l    *net.UnixListener
}

// consoleTime bounds the wait for a runtime that has said it is done.
const consoleTime = 10 * time.Second

func (s *Server) listenConsole() (*consoleSocket, error) {
	name := "console-" + strconv.FormatUint(s.calls.Add(1), 10)
	path := filepath.Join(s.shelf.dir, name)
	if len(path) > 100 { // sun_path has room for 107
		path = fmt.Sprintf("/proc/%d/fd/%d/%s", os.Getpid(), s.dir.Fd(), name)
	}
	os.Remove(path)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen for a terminal: %w", err)
	}
	return &consoleSocket{path: path, l: l}, nil
}

func (c *consoleSocket) close() { c.l.Close() }

// accept takes the master that was sent and closes the socket.
func (c *consoleSocket) accept() (*os.File, error) {
	defer c.close()
	c.l.SetDeadline(time.Now().Add(consoleTime))
	conn, err := c.l.AcceptUnix()
	if err != nil {
		return nil, fmt.Errorf("receive terminal: %w", err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(consoleTime))
	files, _, err := receiveFiles(conn, make([]byte, 4096))
	if err != nil {
		return nil, fmt.Errorf("receive terminal: %w", err)
	}
	if len(files) != 1 {
		closeFiles(files)
		return nil, fmt.Errorf("receive terminal: got %d descriptors, want one", len(files))
	}
	return files[0], nil
}

// receiveFiles reads one message with the descriptors that come with it. They are
// non-blocking.
func receiveFiles(conn *net.UnixConn, buf []byte) ([]*os.File, int, error) {
	control := make([]byte, unix.CmsgSpace(16*4))
	n, oobn, _, _, err := conn.ReadMsgUnix(buf, control)
	if err != nil {
		return nil, 0, err
	}
	messages, err := unix.ParseSocketControlMessage(control[:oobn])
	if err != nil {
		return nil, n, err
	}
	var files []*os.File
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			unix.SetNonblock(fd, true)
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return files, n, nil
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
