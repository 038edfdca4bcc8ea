package guest

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// portTime bounds how long a port may take to appear after the driver has been loaded.
const portTime = 10 * time.Second

// openPort opens the virtio-serial port of a name.
func openPort(ctx context.Context, name string) (*port, error) {
	ctx, cancel := context.WithTimeout(ctx, portTime)
	defer cancel()
	for {
		if device := findPort(name); device != "" {
			fd, err := unix.Open(device, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
			if err == nil {
				return newPort(os.NewFile(uintptr(fd), device))
			}
			if err != unix.ENOENT && err != unix.ENXIO {
				return nil, fmt.Errorf("open port %s: %w", name, err)
			}
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("open port %s: %w", name, ctx.Err())
		case <-time.After(time.Millisecond):
		}
	}
}

// findPort is the device of a port, or empty: the host's names are attributes in sysfs.
func findPort(name string) string {
	found, err := filepath.Glob("/sys/class/virtio-ports/*/name")
	if err != nil {
		return ""
	}
	for _, file := range found {
		if text, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(text)) == name {
			return "/dev/" + filepath.Base(filepath.Dir(file))
		}
	}
	return ""
}

// port is a virtio-serial port whose reads wait for a host where the device's own report
// the end of the file.
type port struct {
	*os.File
	raw syscall.RawConn
}

func newPort(f *os.File) (*port, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("open port %s: %w", f.Name(), err)
	}
	return &port{File: f, raw: raw}, nil
}

// Read waits for bytes. The driver wakes its readers when a host connects and when bytes
// come, so that nothing here has to ask again and again.
func (p *port) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	var n int
	var failed error
	err := p.raw.Read(func(fd uintptr) bool {
		for {
			n, failed = unix.Read(int(fd), b)
			if failed != unix.EINTR {
				break
			}
		}
		return failed != unix.EAGAIN && (n > 0 || failed != nil)
	})
	if err == nil {
		err = failed
	}
	if err != nil {
		return 0, fmt.Errorf("read port: %w", err)
	}
	return n, nil
}

var _ io.ReadWriteCloser = (*port)(nil)
