package agent

import (
	"encoding/hex"
	"fmt"
	"net"
	"path"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Bodies of requests that are no types of their own.
type (
	step          time.Duration // of the clock, in nanoseconds
	sysctls       map[string]string
	place         string // of a mount
	source        string // of a file to be read
	trees         []string
	fileList      []File
	names         []string // of containers
	limits        specs.LinuxResources
	onlineRequest struct {
		Added int64 `json:"added"`
	}
	syncRequest struct {
		Drop bool `json:"drop"`
	}
)

func invalid(format string, args ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument)
}

// directories are where the host may change files.
func directories() []string {
	return []string{DirDisks, DirContainers, DirVolumes, DirShared, DirLogs}
}

func checkPath(p string) error {
	if !path.IsAbs(p) || path.Clean(p) != p || strings.ContainsRune(p, 0) || len(p) >= unix.PathMax {
		return invalid("path %.200q is not an absolute, clean one", p)
	}
	return nil
}

// checkInside wants a path to be one of the directories or, strictly, below one.
func checkInside(p string, strictly bool) error {
	if err := checkPath(p); err != nil {
		return err
	}
	for _, dir := range directories() {
		if p == dir && !strictly || strings.HasPrefix(p, dir+"/") {
			return nil
		}
	}
	return invalid("path %.200q is not in one of the directories for containers and volumes", p)
}

func (id Identity) check() error {
	if len(id.Entropy) < 32 || len(id.Entropy) > 4096 {
		return invalid("entropy of %d bytes", len(id.Entropy))
	}
	if raw, err := hex.DecodeString(id.MachineID); err != nil || len(raw) != 16 {
		return invalid("machine id %.50q", id.MachineID)
	}
	if len(id.Hostname) > 64 || strings.ContainsAny(id.Hostname, "/\x00\n ") {
		return invalid("host name %.100q", id.Hostname)
	}
	if id.UnixNanos <= 0 {
		return invalid("clock of %d ns", id.UnixNanos)
	}
	return nil
}

func (step) check() error { return nil } // the kernel does

func (n Network) check() error {
	if n.Name == "" || len(n.Name) >= unix.IFNAMSIZ || strings.ContainsAny(n.Name, "/\x00 ") {
		return invalid("interface name %.50q", n.Name)
	}
	if err := checkMAC(n.MAC); n.MAC != "" && err != nil {
		return err
	}
	if n.MTU != 0 && (n.MTU < 68 || n.MTU > 65535) {
		return invalid("MTU %d", n.MTU)
	}
	for _, a := range n.Addresses {
		if !a.IsValid() {
			return invalid("address %s", a)
		}
	}
	for _, r := range n.Routes {
		if !r.Destination.IsValid() {
			return invalid("route to %s", r.Destination)
		}
	}
	for _, e := range n.Neighbours {
		if err := checkMAC(e.MAC); err != nil || !e.IP.IsValid() {
			return invalid("neighbour %s at %.50q", e.IP, e.MAC)
		}
	}
	return nil
}

func checkMAC(s string) error {
	if mac, err := net.ParseMAC(s); err != nil || len(mac) != 6 {
		return invalid("hardware address %.50q", s)
	}
	return nil
}

func (s sysctls) check() error {
	for name, value := range s {
		if name == "" || len(name) > 256 || strings.Contains(name, "..") || strings.ContainsAny(name, " \x00\n") ||
			strings.HasPrefix(name, ".") || strings.HasPrefix(name, "/") {
			return invalid("kernel parameter %.100q", name)
		}
		if len(value) > 4096 || strings.ContainsRune(value, 0) {
			return invalid("value of kernel parameter %s", name)
		}
	}
	return nil
}

func (m Mount) check() error {
	if err := checkInside(m.Target, false); err != nil {
		return err
	}
	if m.Type == "" || len(m.Type) > 32 || strings.ContainsRune(m.Type, 0) {
		return invalid("type of file system %.50q", m.Type)
	}
	if len(m.Slot) > 20 || strings.ContainsAny(m.Slot, "/\x00") || strings.ContainsRune(m.Source, 0) {
		return invalid("disk %.50q or source %.200q of mount", m.Slot, m.Source)
	}
	if len(m.Memory) > 16 || len(m.Memory) > 0 && (m.Slot != "" || m.Type != "erofs") {
		return invalid("%d mapped files as %s", len(m.Memory), m.Type)
	}
	for _, bus := range m.Memory {
		if bus <= 0 || bus > 255 {
			return invalid("mapped file on bus %d", bus)
		}
	}
	for _, o := range m.Options {
		if strings.ContainsRune(o, 0) || strings.ContainsRune(o, ',') {
			return invalid("mount option %.200q", o)
		}
	}
	return nil
}

func (p place) check() error  { return checkInside(string(p), false) }
func (p source) check() error { return checkPath(string(p)) }

func (p trees) check() error {
	for _, tree := range p {
		if err := checkInside(tree, true); err != nil {
			return err
		}
	}
	return nil
}

func (n names) check() error {
	if len(n) > maxContainers {
		return invalid("%d containers", len(n))
	}
	for _, name := range n {
		if err := checkName(&name); err != nil || strings.HasPrefix(name, ".") {
			return invalid("name of container %.100q", name)
		}
	}
	return nil
}

func (f fileList) check() error {
	for _, file := range f {
		if err := file.check(); err != nil {
			return err
		}
	}
	return nil
}

func (f File) check() error {
	if err := checkInside(f.Path, true); err != nil {
		return err
	}
	switch f.Mode & unix.S_IFMT {
	case unix.S_IFREG:
	case unix.S_IFDIR:
		if len(f.Content) > 0 {
			return invalid("directory %.200q with content", f.Path)
		}
	case unix.S_IFLNK:
		if len(f.Content) == 0 || len(f.Content) >= unix.PathMax || strings.ContainsRune(string(f.Content), 0) {
			return invalid("target of symbolic link %.200q", f.Path)
		}
	default:
		return invalid("file %.200q with mode %o", f.Path, f.Mode)
	}
	return nil
}

func (limits) check() error      { return nil }
func (syncRequest) check() error { return nil }

func (o onlineRequest) check() error {
	if o.Added < 0 {
		return invalid("memory of %d bytes", o.Added)
	}
	return nil
}
