package qemu

import (
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/cricket-cri/cricket/vmsandbox/qemu/confine"
	"github.com/cricket-cri/cricket/vmsandbox/vmm"
)

// Confine says how QEMU is confined.
type Confine struct {
	// Launcher is the program, with its arguments, that confines itself and becomes
	// QEMU: cricket-monitor confine.
	Launcher []string
	// FirstUser and Users are a range of user and group ids that nothing else on the
	// node uses; each machine gets one.
	FirstUser, Users uint32
	// Files are the files and directories, beside the kernel, that QEMU reads: itself,
	// its libraries and its firmware. Those that do not exist are left out.
	Files []string
}

// A range of users that neither distributions nor systemd hand out.
const (
	DefaultFirstUser = 2_000_000_000
	DefaultUsers     = 65536
)

// DefaultFiles are what a distribution's QEMU reads.
func DefaultFiles(program string) []string {
	return []string{program, "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/usr/share/qemu", "/usr/share/seabios", "/usr/lib/ipxe"}
}

// freeUser returns a user that no machine runs as. The caller holds h.mu.
func (h *hypervisor) freeUser() (uint32, error) {
	c := h.options.Confine
	if c == nil {
		return 0, nil
	}
	ids, err := h.List(nil) //nolint:staticcheck // it reads a directory and waits for nothing
	if err != nil {
		return 0, err
	}
	taken := map[uint32]bool{}
	for _, id := range ids {
		if r, err := readRecord(h.dir(id)); err == nil {
			taken[r.User] = true
		}
	}
	for i := range c.Users {
		if user := c.FirstUser + i; !taken[user] {
			return user, nil
		}
	}
	return 0, fmt.Errorf("find a user for the machine: all %d are taken: %w", c.Users, errdefs.ErrResourceExhausted)
}

// confined returns the command that confines QEMU.
func (h *hypervisor) confined(args []string, l launch, user uint32) ([]string, error) {
	c := h.options.Confine
	if c == nil {
		return args, nil
	}
	r := confine.Request{User: user, Files: append([]string{}, c.Files...), Shared: l.config.Volumes}
	if r.Shared == "" {
		r.Files = append(r.Files, l.volumes)
	} else if err := confine.Share(r.Shared); err != nil {
		return nil, err
	}
	if l.state == 0 {
		r.Files = append(r.Files, l.config.Shape.Kernel)
		if l.config.Shape.Initrd != "" {
			r.Files = append(r.Files, l.config.Shape.Initrd)
		}
	}
	if l.config.Shape.Accelerator == vmm.AccelKVM {
		r.Devices = append(r.Devices, "/dev/kvm")
	}
	return r.Command(c.Launcher, args)
}
