package netns

import (
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Setup says what new namespaces look like inside.
type Setup struct {
	// Types are the namespaces to make or to set up: network, IPC, UTS.
	Types []specs.LinuxNamespaceType
	// Hostname is set in the UTS namespace; empty leaves the host's.
	Hostname string
	// Sysctls are kernel parameters, CheckSysctls has approved of them.
	Sysctls map[string]string
	// RootUID and RootGID are the host's ids of root in the user namespace that owns
	// the namespaces; 0 without one.
	RootUID, RootGID int
}

// Make makes the namespaces of s, sets them up and pins them in d. If it fails it
// leaves nothing pinned.
func (d Dir) Make(s Setup) error {
	err := onThread(s.Types, func() error {
		flags := 0
		for _, t := range s.Types {
			flag, err := cloneFlag(t)
			if err != nil {
				return err
			}
			flags |= flag
		}
		if err := unix.Unshare(flags); err != nil {
			return fmt.Errorf("make namespaces: %w", err)
		}
		if err := s.apply(); err != nil {
			return err
		}
		return d.pin("/proc/thread-self/ns", s.Types)
	})
	if err != nil {
		_ = d.Unpin()
	}
	return err
}

// Adopt sets up namespaces that a process was made with and pins them in d, together
// with those of the types more. If it fails it leaves nothing pinned.
func (d Dir) Adopt(pid int, s Setup, more ...specs.LinuxNamespaceType) error {
	err := onThread(s.Types, func() error {
		for _, t := range s.Types {
			flag, err := cloneFlag(t)
			if err != nil {
				return err
			}
			if err := enter(fmt.Sprintf("/proc/%d/ns/%s", pid, procName(t)), flag); err != nil {
				return err
			}
		}
		return s.apply()
	})
	if err == nil {
		err = d.Pin(pid, append(more, s.Types...)...)
	}
	if err != nil {
		_ = d.Unpin()
	}
	return err
}

// apply sets up the namespaces that the calling thread is in.
func (s Setup) apply() error {
	for _, t := range s.Types {
		switch t {
		case specs.NetworkNamespace:
			if err := loopbackUp(); err != nil {
				return err
			}
		case specs.UTSNamespace:
			if s.Hostname == "" {
				continue
			}
			if err := unix.Sethostname([]byte(s.Hostname)); err != nil {
				return fmt.Errorf("set host name: %w", err)
			}
		}
	}
	return s.applySysctls()
}

// loopbackUp does what the loopback CNI plugin does, without a process; the kernel
// assigns 127.0.0.1 and ::1 itself.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open socket for loopback: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("name loopback: %w", err)
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req); err != nil {
		return fmt.Errorf("bring loopback up: %w", err)
	}
	return nil
}
