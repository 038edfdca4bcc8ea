package monitor

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"
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
	defer func() { _ = conn.Close() }() // nothing was written to it
	if err := conn.SetDeadline(time.Now().Add(consoleTime)); err != nil {
		return nil, fmt.Errorf("receive terminal: %w", err)
	}
	fds, _, err := receiveFDs(conn, make([]byte, 4096), maxFDs)
	if err != nil {
		return nil, fmt.Errorf("receive terminal: %w", err)
	}
	if len(fds) != 1 {
		closeFDs(fds)
		return nil, fmt.Errorf("receive terminal: got %d descriptors, want one", len(fds))
	}
	unblock(fds)
	return os.NewFile(uintptr(fds[0]), "terminal"), nil
}
