package spec

import (
	"fmt"
	"maps"
	"path"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cricket-cri/cricket/runtime"
)

// Version is the ociVersion of what Build makes.
const Version = "1.0.2"

// Place is what a sandbox and its host say about a container to be made in them.
type Place struct {
	// Rootfs is the root file system's path, absolute or relative to the bundle.
	Rootfs string
	// Namespaces are those of the sandbox. One with a path is joined, one without is
	// made. Build adds the mount namespace, the cgroup namespace (cgroup v2, not
	// privileged) and the PID namespace of a container that has its own, and drops a
	// PID namespace that the container does not use.
	Namespaces []specs.LinuxNamespace
	// Mounts are the sandbox's: /dev/shm, /etc/resolv.conf, /etc/hosts, /etc/hostname.
	// A mount of the Config at the same destination wins.
	Mounts []specs.Mount
	// ImageMounts says where the image volumes are mounted: the (clean) destination in
	// the container -> a path, absolute or relative to the bundle.
	ImageMounts map[string]string
	// CgroupsPath is the OCI cgroupsPath, in the form of the cgroup driver in use.
	CgroupsPath string
	// Hostname is set if the UTS namespace is new; one that is joined has its own.
	Hostname string
	// UIDMappings and GIDMappings are set if the container runs in a user namespace.
	UIDMappings []specs.LinuxIDMapping
	GIDMappings []specs.LinuxIDMapping

	HostNetwork, HostPID, HostIPC bool

	// CgroupV2 is true if the host has the unified hierarchy alone.
	CgroupV2 bool
	// CgroupMountOptions are the flags nsdelegate and memory_recursiveprot, where the
	// host's cgroup2 mount has them: a mount in the host's cgroup namespace that does
	// not repeat them would take them away from the host.
	CgroupMountOptions []string

	// HostCapabilities (CAP_X) are those that the OCI runtime will run with. Others are
	// never granted; an empty list grants nothing.
	HostCapabilities []string
	// OOMScoreAdj is the OCI runtime's own value. Without CAP_SYS_RESOURCE a container
	// cannot have a lower one.
	OOMScoreAdj int
	// Rlimits are given to the container's process; empty leaves those of the OCI
	// runtime.
	Rlimits []specs.POSIXRlimit
	// Devices says for each Device.HostPath of the Config which nodes it stands for,
	// with their paths on the host.
	Devices map[string][]specs.LinuxDevice
	// HostDevices are all the host's devices, for a privileged container.
	HostDevices []specs.LinuxDevice
}

// Build makes the OCI specification of the container that c describes in p. It ends
// with c.Adjust. The result shares no memory with c or p that either may change later,
// apart from the seccomp profile. A Config that contradicts itself or the Place gives
// errdefs.ErrInvalidArgument.
func Build(c runtime.Config, p Place) (*specs.Spec, error) {
	if err := check(c, p); err != nil {
		return nil, err
	}
	namespaces, err := namespaces(c, p)
	if err != nil {
		return nil, err
	}
	mounts, propagation, err := mounts(c, p, has(namespaces, specs.CgroupNamespace))
	if err != nil {
		return nil, err
	}
	devices, rules, err := devices(c, p)
	if err != nil {
		return nil, err
	}
	resources := Resources(c.Resources, p.CgroupV2)
	resources.Devices = rules

	s := &specs.Spec{
		Version:     Version,
		Root:        &specs.Root{Path: p.Rootfs, Readonly: c.ReadonlyRootfs},
		Process:     process(c, p),
		Mounts:      mounts,
		Annotations: maps.Clone(c.Annotations),
		Linux: &specs.Linux{
			UIDMappings:       slices.Clone(p.UIDMappings),
			GIDMappings:       slices.Clone(p.GIDMappings),
			CgroupsPath:       p.CgroupsPath,
			Namespaces:        namespaces,
			Resources:         resources,
			Devices:           devices,
			RootfsPropagation: propagation,
			MountLabel:        c.MountLabel,
		},
	}
	if !c.Privileged {
		s.Linux.MaskedPaths = slices.Clone(c.MaskedPaths)
		s.Linux.ReadonlyPaths = slices.Clone(c.ReadonlyPaths)
		s.Linux.Seccomp = c.Seccomp
	}
	if makesNew(namespaces, specs.UTSNamespace) {
		s.Hostname = p.Hostname
	}
	if c.Adjust != nil {
		if err := c.Adjust(s); err != nil {
			return nil, fmt.Errorf("adjust OCI specification: %w", err)
		}
		s.Process.OOMScoreAdj = possible(s.Process.OOMScoreAdj, p)
	}
	return s, nil
}

func check(c runtime.Config, p Place) error {
	switch {
	case len(c.Args) == 0:
		return fmt.Errorf("build OCI specification: no command: %w", errdefs.ErrInvalidArgument)
	case c.Cwd != "" && !path.IsAbs(c.Cwd):
		return fmt.Errorf("build OCI specification: working directory %q is not absolute: %w", c.Cwd, errdefs.ErrInvalidArgument)
	case p.Rootfs == "":
		return fmt.Errorf("build OCI specification: no root file system: %w", errdefs.ErrInvalidArgument)
	case len(p.UIDMappings) > 0 != (len(p.GIDMappings) > 0):
		return fmt.Errorf("build OCI specification: user namespace with mappings for users or groups only: %w", errdefs.ErrInvalidArgument)
	}
	return nil
}

// namespaces lists what the container joins and makes.
func namespaces(c runtime.Config, p Place) ([]specs.LinuxNamespace, error) {
	var out []specs.LinuxNamespace
	for _, n := range p.Namespaces {
		ownPID := c.PID == runtime.NamespaceContainer || c.PID == runtime.NamespaceNode
		if n.Type == specs.PIDNamespace && ownPID {
			continue
		}
		out = append(out, n)
	}
	switch c.PID {
	case runtime.NamespaceContainer:
		out = append(out, specs.LinuxNamespace{Type: specs.PIDNamespace})
	case runtime.NamespaceNode:
	case runtime.NamespacePod, runtime.NamespaceTarget:
		if !p.HostPID && !has(out, specs.PIDNamespace) {
			return nil, fmt.Errorf("build OCI specification: no PID namespace to join for mode %s: %w", c.PID, errdefs.ErrInvalidArgument)
		}
	default:
		return nil, fmt.Errorf("build OCI specification: PID namespace mode %q: %w", c.PID, errdefs.ErrInvalidArgument)
	}
	if !has(out, specs.MountNamespace) {
		out = append(out, specs.LinuxNamespace{Type: specs.MountNamespace})
	}
	// On cgroup v1, and for privileged containers on v2, the host's hierarchy shows
	// through: programs that look for their own cgroup there depend on it.
	if p.CgroupV2 && !c.Privileged && !has(out, specs.CgroupNamespace) {
		out = append(out, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	if len(p.UIDMappings) > 0 && !has(out, specs.UserNamespace) {
		out = append(out, specs.LinuxNamespace{Type: specs.UserNamespace})
	}
	return out, nil
}

func has(list []specs.LinuxNamespace, t specs.LinuxNamespaceType) bool {
	return slices.ContainsFunc(list, func(n specs.LinuxNamespace) bool { return n.Type == t })
}

func makesNew(list []specs.LinuxNamespace, t specs.LinuxNamespaceType) bool {
	return slices.Contains(list, specs.LinuxNamespace{Type: t})
}
