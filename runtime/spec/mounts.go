package spec

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cricket-cri/cricket/runtime"
)

// mounts lists all mounts in the order in which they are made, and says what
// propagation the root needs for them.
func mounts(c runtime.Config, p Place, cgroupNS bool) ([]specs.Mount, string, error) {
	own, propagation, err := ownMounts(c, p)
	if err != nil {
		return nil, "", err
	}
	taken := map[string]bool{}
	for _, m := range own {
		taken[path.Clean(m.Destination)] = true
	}
	for _, m := range p.Mounts {
		if !taken[path.Clean(m.Destination)] {
			own = append(own, sandboxMount(m, c.ReadonlyRootfs))
		}
	}
	for _, m := range own {
		taken[path.Clean(m.Destination)] = true
	}
	// A mount must not hide one that was made before it: those near the root go first.
	slices.SortStableFunc(own, func(a, b specs.Mount) int {
		return depth(a.Destination) - depth(b.Destination)
	})

	var out []specs.Mount
	for _, m := range defaultMounts(c, p, cgroupNS) {
		hidden := taken["/dev"] && strings.HasPrefix(m.Destination, "/dev/")
		if !taken[m.Destination] && !hidden {
			out = append(out, m)
		}
	}
	return append(out, own...), propagation, nil
}

func depth(destination string) int {
	return strings.Count(path.Clean(destination), "/")
}

// ownMounts translates the mounts that the container was configured with.
func ownMounts(c runtime.Config, p Place) (out []specs.Mount, propagation string, err error) {
	for _, m := range c.Mounts {
		if !path.IsAbs(m.Destination) {
			return nil, "", fmt.Errorf("build OCI specification: mount destination %q is not absolute: %w", m.Destination, errdefs.ErrInvalidArgument)
		}
		source, err := source(m, p)
		if err != nil {
			return nil, "", err
		}
		mount, err := Bind(m, source)
		if err != nil {
			return nil, "", err
		}
		switch m.Propagation {
		case runtime.PropagationBidirectional:
			propagation = "rshared"
		case runtime.PropagationHostToContainer:
			if propagation == "" {
				propagation = "rslave"
			}
		}
		out = append(out, mount)
	}
	return out, propagation, nil
}

// Bind is m as a bind mount of source. Options that contradict each other are
// errdefs.ErrInvalidArgument.
func Bind(m runtime.Mount, source string) (specs.Mount, error) {
	options, err := options(m)
	return specs.Mount{
		Destination: m.Destination,
		Type:        "bind",
		Source:      source,
		Options:     options,
		UIDMappings: slices.Clone(m.UIDMappings),
		GIDMappings: slices.Clone(m.GIDMappings),
	}, err
}

func source(m runtime.Mount, p Place) (string, error) {
	if len(m.Image) == 0 {
		if !path.IsAbs(m.Source) {
			return "", fmt.Errorf("build OCI specification: source %q of mount %s is not absolute: %w", m.Source, m.Destination, errdefs.ErrInvalidArgument)
		}
		return m.Source, nil
	}
	source, ok := p.ImageMounts[path.Clean(m.Destination)]
	if !ok {
		return "", fmt.Errorf("build OCI specification: image volume %s is not mounted: %w", m.Destination, errdefs.ErrInvalidArgument)
	}
	return source, nil
}

// options are those of a bind mount.
func options(m runtime.Mount) ([]string, error) {
	out := []string{"rbind"}
	switch m.Propagation {
	case "", runtime.PropagationPrivate:
		out = append(out, string(runtime.PropagationPrivate))
	case runtime.PropagationHostToContainer, runtime.PropagationBidirectional:
		out = append(out, string(m.Propagation))
	default:
		return nil, fmt.Errorf("build OCI specification: propagation %q of mount %s: %w", m.Propagation, m.Destination, errdefs.ErrInvalidArgument)
	}
	switch {
	case m.RecursiveReadOnly && !m.Readonly && len(m.Image) == 0:
		return nil, fmt.Errorf("build OCI specification: mount %s is recursively read-only and writable: %w", m.Destination, errdefs.ErrInvalidArgument)
	case m.RecursiveReadOnly:
		out = append(out, "rro")
	case m.Readonly || len(m.Image) > 0:
		out = append(out, "ro")
	default:
		out = append(out, "rw")
	}
	return append(out, m.Options...), nil
}

// sandboxMount adapts a mount of the sandbox. Its files in /etc are as writable as the
// root file system that they stand in; /dev/shm is always writable.
func sandboxMount(m specs.Mount, readonlyRootfs bool) specs.Mount {
	m.Options = slices.Clone(m.Options)
	if readonlyRootfs && strings.HasPrefix(path.Clean(m.Destination), "/etc/") {
		m.Options = slices.DeleteFunc(m.Options, func(o string) bool { return o == "rw" || o == "ro" })
		m.Options = append(m.Options, "ro")
	}
	return m
}

// defaultMounts are what every container has: the kernel's file systems and /dev.
func defaultMounts(c runtime.Config, p Place, cgroupNS bool) []specs.Mount {
	return []specs.Mount{
		procMount(c, p),
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		ptsMount(p),
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
		mqueueMount(p),
		sysMount(c, p),
		cgroupMount(c, p, cgroupNS),
	}
}

// procMount binds the host's /proc where proc cannot be mounted: in a user namespace
// that does not own the PID namespace.
func procMount(c runtime.Config, p Place) specs.Mount {
	hostPID := c.PID == runtime.NamespaceNode || p.HostPID && c.PID != runtime.NamespaceContainer
	if userNS(p) && hostPID {
		return bindMount("/proc", "rbind")
	}
	return specs.Mount{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}}
}

// ptsMount gives terminals to the group tty (5) where the user namespace has it.
func ptsMount(p Place) specs.Mount {
	options := []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}
	if mapped(p.GIDMappings, 5) {
		options = append(options, "gid=5")
	}
	return specs.Mount{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: options}
}

func mapped(mappings []specs.LinuxIDMapping, id uint32) bool {
	return len(mappings) == 0 || slices.ContainsFunc(mappings, func(m specs.LinuxIDMapping) bool {
		return id >= m.ContainerID && id-m.ContainerID < m.Size
	})
}

// mqueueMount binds the host's where the user namespace does not own the IPC namespace.
func mqueueMount(p Place) specs.Mount {
	if userNS(p) && p.HostIPC {
		return bindMount("/dev/mqueue", "rbind")
	}
	return specs.Mount{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}}
}

// sysMount binds the host's /sys where sysfs cannot be mounted: in a user namespace
// that does not own the network namespace.
func sysMount(c runtime.Config, p Place) specs.Mount {
	if userNS(p) && p.HostNetwork {
		return bindMount("/sys", "rbind", "rro")
	}
	return specs.Mount{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", access(c)}}
}

func cgroupMount(c runtime.Config, p Place, cgroupNS bool) specs.Mount {
	options := []string{"nosuid", "noexec", "nodev", "relatime", access(c)}
	if !cgroupNS {
		options = append(options, p.CgroupMountOptions...)
	}
	return specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: options}
}

func access(c runtime.Config) string {
	if c.Privileged {
		return "rw"
	}
	return "ro"
}

// bindMount binds a directory of the host's, private: what the OCI runtime mounts below it
// for the container, as cgroups below /sys, would appear on the host.
func bindMount(dir string, options ...string) specs.Mount {
	return specs.Mount{Destination: dir, Type: "bind", Source: dir, Options: append(options, "rprivate", "nosuid", "noexec", "nodev")}
}

func userNS(p Place) bool {
	return len(p.UIDMappings) > 0
}
