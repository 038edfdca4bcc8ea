package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/vmsandbox/agent"
)

// deviceTime bounds how long a disk may take to have something in it, pluggedTime how long
// mapped files may take to appear.
const (
	deviceTime  = 5 * time.Second
	pluggedTime = 20 * time.Second
)

// Mount implements agent.Guest.
func (g *Guest) Mount(ctx context.Context, m agent.Mount) error {
	if err := g.mount(ctx, m); err != nil {
		return fmt.Errorf("mount %s: %w", m.Target, err)
	}
	return nil
}

func (g *Guest) mount(ctx context.Context, m agent.Mount) error {
	flags, data, err := mountOptions(m)
	if err != nil {
		return err
	}
	p, err := locate(m.Target, true)
	if err != nil {
		return err
	}
	defer p.close()
	if err := unix.Mkdirat(p.fd(), p.name, 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
		return fileError(err)
	}
	fd, err := unix.Openat(p.fd(), p.name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fileError(err)
	}
	defer unix.Close(fd)
	target := fmt.Sprintf("/proc/self/fd/%d", fd)
	if err := g.mountAt(ctx, m, target, flags, data); err != nil {
		// The directory is not worth another error.
		_ = unix.Unlinkat(p.fd(), p.name, unix.AT_REMOVEDIR)
		return err
	}
	if m.Slot != "" && flags&unix.MS_RDONLY == 0 {
		g.mu.Lock()
		g.slots[m.Slot] = m.Target
		g.mu.Unlock()
	}
	return nil
}

// source is what mount(2) is told of where a file system lies.
type source struct {
	device string
	data   string // more options
}

// mountAt mounts, again and again while the disk is not there yet: the driver answers
// ENXIO for a moment after it has made the device. Nor is a disk mounted as long as the
// slot's last file system is held by anyone: the kernel would show that one.
func (g *Guest) mountAt(ctx context.Context, m agent.Mount, target string, flags uintptr, data string) error {
	hot, limit := m.Slot != "" || len(m.Memory) > 0, deviceTime
	if len(m.Memory) > 0 {
		limit = pluggedTime
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		from, err := sourceOf(m)
		if err == nil && m.Slot != "" {
			err = unheld(from.device)
		}
		if err == nil {
			err = unix.Mount(from.device, target, m.Type, flags, joinOptions(data, from.data))
			if err == nil {
				return nil
			}
		}
		// Mapped files that another file system has stay busy.
		early := errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EBUSY) && m.Slot != ""
		if !hot || !early {
			return mountError(m, err)
		}
		select {
		case <-ctx.Done():
			return mountError(m, err)
		case <-time.After(time.Millisecond):
		}
	}
}

// unheld is EBUSY if a file system is mounted from the device, or a reference to it left.
func unheld(device string) error {
	fd, err := unix.Open(device, unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

func mountError(m agent.Mount, err error) error {
	text := fmt.Sprintf("%s of %s%s", m.Type, m.Slot, m.Source)
	if len(m.Memory) > 0 {
		text = fmt.Sprintf("%s of mapped files %v", m.Type, m.Memory)
	}
	switch {
	case errors.Is(err, unix.ENODEV):
		return fmt.Errorf("%s: the kernel lacks the file system: %w: %w", text, errdefs.ErrNotImplemented, err)
	case errors.Is(err, unix.ENXIO), errors.Is(err, unix.EBUSY):
		return fmt.Errorf("%s: %w: %w", text, errdefs.ErrUnavailable, err)
	}
	return fmt.Errorf("%s: %w", text, fileError(err))
}

func joinOptions(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + "," + b
}

// sourceOf finds the device of a slot, or those of mapped files.
func sourceOf(m agent.Mount) (source, error) {
	switch {
	case len(m.Memory) > 0:
		return mappedFiles(m.Memory)
	case m.Slot == "":
		return source{device: m.Source}, nil
	}
	serials, err := filepath.Glob("/sys/block/vd*/serial")
	if err != nil {
		return source{}, err
	}
	for _, file := range serials {
		if serial, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(serial)) == m.Slot {
			return source{device: "/dev/" + filepath.Base(filepath.Dir(file))}, nil
		}
	}
	return source{}, unix.ENOENT
}

// mountOptions splits the options of mount(8) into flags and data of mount(2).
func mountOptions(m agent.Mount) (flags uintptr, data string, err error) {
	set := map[string]uintptr{
		"ro": unix.MS_RDONLY, "nosuid": unix.MS_NOSUID, "nodev": unix.MS_NODEV, "noexec": unix.MS_NOEXEC, "sync": unix.MS_SYNCHRONOUS,
		"dirsync": unix.MS_DIRSYNC, "noatime": unix.MS_NOATIME, "nodiratime": unix.MS_NODIRATIME, "relatime": unix.MS_RELATIME,
		"strictatime": unix.MS_STRICTATIME, "nosymfollow": unix.MS_NOSYMFOLLOW, "lazytime": unix.MS_LAZYTIME,
		"rw": 0, "suid": 0, "dev": 0, "exec": 0, "async": 0, "defaults": 0,
	}
	var rest []string
	for _, o := range m.Options {
		if bit, ok := set[o]; ok {
			flags |= bit
		} else {
			rest = append(rest, o)
		}
	}
	switch m.Type {
	case "erofs", "ext4", "tmpfs":
	case "9p":
		rest = append([]string{"trans=virtio", "version=9p2000.L"}, rest...) // later ones win
	default:
		return 0, "", fmt.Errorf("file system %q, not one of erofs, ext4, tmpfs and 9p: %w", m.Type, errdefs.ErrInvalidArgument)
	}
	return flags, strings.Join(rest, ","), nil
}

// busyTime is how long an unmount waits for the last user to go away.
const busyTime = time.Second

// Unmount implements agent.Guest.
func (g *Guest) Unmount(ctx context.Context, target string) error {
	p, err := locate(target, false)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err == nil {
		err = g.unmount(ctx, p, target)
		p.close()
	}
	if err != nil {
		return fmt.Errorf("unmount %s: %w", target, err)
	}
	return nil
}

func (g *Guest) unmount(ctx context.Context, p place, target string) error {
	ctx, cancel := context.WithTimeout(ctx, busyTime)
	defer cancel()
	for {
		err := unix.Unmount(p.path(), unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.ENOENT) {
			break
		}
		if errors.Is(err, unix.EINVAL) { // nothing is mounted there
			if err := unix.Unlinkat(p.fd(), p.name, unix.AT_REMOVEDIR); err != nil && !errors.Is(err, unix.ENOENT) {
				return fileError(err)
			}
			break
		}
		if err == nil {
			continue // there may be another one below it
		}
		if !errors.Is(err, unix.EBUSY) || ctx.Err() != nil {
			return fileError(err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(2 * time.Millisecond):
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for slot, at := range g.slots {
		if at == target {
			delete(g.slots, slot)
		}
	}
	return nil
}
