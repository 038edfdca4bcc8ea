package monitor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// The FIFOs of a container without a terminal lie in its bundle. A process gets the
// output ones opened for reading and writing: then there is always a reader, no
// monitor's death ever raises SIGPIPE, and the next monitor opens them by name.
const (
	stdoutFIFO = "stdout.fifo"
	stderrFIFO = "stderr.fifo"
	stdinFIFO  = "stdin.fifo"
)

// makeFIFO makes an empty FIFO owned by uid, so that the container's user can open it
// again through /dev/stdout.
func makeFIFO(path string, uid, gid int) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("make FIFO: %w", err)
	}
	if err := unix.Mkfifo(path, 0o600); err != nil {
		return fmt.Errorf("make FIFO %s: %w", path, err)
	}
	if err := os.Chown(path, uid, gid); err != nil {
		return fmt.Errorf("make FIFO: %w", err)
	}
	return nil
}

// openFIFO opens one end. O_NONBLOCK of the container's own ends is taken away again
// by blocking.
func openFIFO(bundle, name string, flags int) (*os.File, error) {
	path := filepath.Join(bundle, name)
	fd, err := unix.Open(path, flags|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("open FIFO %s: %w", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// childEnd opens an end that a container's process inherits, in blocking mode.
func childEnd(bundle, name string, flags int) (*os.File, error) {
	path := filepath.Join(bundle, name)
	fd, err := unix.Open(path, flags|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("open FIFO %s: %w", path, err)
	}
	if err := unix.SetNonblock(fd, false); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("open FIFO %s: %w", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// childStreams are what a new process gets as descriptors 0, 1 and 2.
type childStreams [3]*os.File

func (c *childStreams) close() {
	for _, f := range c {
		if f != nil {
			f.Close()
		}
	}
}

func (c *childStreams) fds() []uintptr {
	return []uintptr{c[0].Fd(), c[1].Fd(), c[2].Fd()}
}

// nullStreams connects a process to nothing.
func nullStreams() (childStreams, error) {
	var c childStreams
	for i := range c {
		f, err := openNull()
		if err != nil {
			c.close()
			return childStreams{}, err
		}
		c[i] = f
	}
	return c, nil
}
