package spec

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// ReadDevices finds the device nodes that name stands for, for Place.Devices: itself,
// or all below it if it is a directory. Symbolic links are followed for name itself
// only, and the paths in the answer begin with name. ReadDevices("/dev") is
// Place.HostDevices.
//
// Nodes that belong to the host's own terminals, shared memory and message queues are
// left out, as are FIFOs in directories. A name that is no device gives
// errdefs.ErrInvalidArgument, one that does not exist errdefs.ErrNotFound.
func ReadDevices(name string) ([]specs.LinuxDevice, error) {
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil {
		var kind error = errdefs.ErrInternal
		if errors.Is(err, fs.ErrNotExist) {
			kind = errdefs.ErrNotFound
		}
		return nil, fmt.Errorf("read device %s: %w: %w", name, kind, err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return readDirectory(name)
	}
	d, ok := device(name, st)
	if !ok {
		return nil, fmt.Errorf("read device %s: not a device node: %w", name, errdefs.ErrInvalidArgument)
	}
	return []specs.LinuxDevice{d}, nil
}

func readDirectory(dir string) ([]specs.LinuxDevice, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read devices: %w: %w", errdefs.ErrInternal, err)
	}
	var out []specs.LinuxDevice
	for _, e := range entries {
		name := filepath.Join(dir, e.Name())
		if e.IsDir() {
			if hostsOwn(e.Name()) {
				continue
			}
			below, err := readDirectory(name)
			if err != nil {
				return nil, err
			}
			out = append(out, below...)
			continue
		}
		var st unix.Stat_t
		if err := unix.Lstat(name, &st); err != nil {
			continue // it went away: devices come and go
		}
		d, ok := device(name, st)
		if ok && d.Type != "p" && e.Name() != "console" && e.Name() != "ptmx" {
			out = append(out, d)
		}
	}
	return out, nil
}

// hostsOwn says of a directory in /dev that it is not for containers, which have their
// own or, of the last three, that a container manager outside put it there.
func hostsOwn(name string) bool {
	switch name {
	case "pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev":
		return true
	}
	return false
}

func device(name string, st unix.Stat_t) (specs.LinuxDevice, bool) {
	kinds := map[uint32]string{unix.S_IFBLK: "b", unix.S_IFCHR: "c", unix.S_IFIFO: "p"}
	kind, ok := kinds[st.Mode&unix.S_IFMT]
	mode := os.FileMode(st.Mode &^ unix.S_IFMT)
	return specs.LinuxDevice{
		Path:     name,
		Type:     kind,
		Major:    int64(unix.Major(st.Rdev)),
		Minor:    int64(unix.Minor(st.Rdev)),
		FileMode: &mode,
		UID:      &st.Uid,
		GID:      &st.Gid,
	}, ok
}

// ReadCapabilities lists the effective capabilities of this process as CAP_X, for
// Place.HostCapabilities. Those that are newer than this package are left out.
func ReadCapabilities() ([]string, error) {
	status, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		return nil, fmt.Errorf("read capabilities: %w: %w", errdefs.ErrInternal, err)
	}
	for line := range strings.Lines(string(status)) {
		if hex, ok := strings.CutPrefix(line, "CapEff:"); ok {
			set, err := strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
			if err != nil {
				return nil, fmt.Errorf("read capabilities: %w: %w", errdefs.ErrInternal, err)
			}
			return capabilityNames(set), nil
		}
	}
	return nil, fmt.Errorf("read capabilities: no CapEff line: %w", errdefs.ErrInternal)
}

func capabilityNames(set uint64) []string {
	var out []string
	for i, name := range AllCapabilities() {
		if set&(1<<i) != 0 {
			out = append(out, name)
		}
	}
	return out
}
