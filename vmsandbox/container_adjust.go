package vmsandbox

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/spec"
)

// buildSpec makes the specification for the guest, and lets it be adjusted (NRI, CDI).
// What an adjustment brings that has no meaning in another kernel is refused by name;
// mounts of the host's files become volumes.
func (c *creation) buildSpec(ctx context.Context) (*specs.Spec, error) {
	config := c.config
	config.Adjust = nil
	s, err := spec.Build(config, c.place)
	if err != nil {
		return nil, err
	}
	s.Linux.Sysctl = ipcSysctls(c.pod.config())
	if c.config.Adjust == nil {
		return s, nil
	}
	before, err := copySpec(s)
	if err != nil {
		return nil, err
	}
	if err := c.config.Adjust(s); err != nil {
		return nil, fmt.Errorf("adjust OCI specification: %w", err)
	}
	if err := checkAdjusted(before, s); err != nil {
		return nil, fmt.Errorf("adjust OCI specification: %w", err)
	}
	if err := c.adjustLimits(ctx, before, s); err != nil {
		return nil, err
	}
	if err := c.showAdjusted(ctx, before.Mounts, s); err != nil {
		return nil, errors.Join(err, c.removeVolumes(context.WithoutCancel(ctx)))
	}
	return s, nil
}

// copySpec copies what is compared afterwards.
func copySpec(s *specs.Spec) (*specs.Spec, error) {
	linux := *s.Linux
	linux.Seccomp = nil
	text, err := json.Marshal(&specs.Spec{Mounts: s.Mounts, Linux: &linux})
	if err != nil {
		return nil, fmt.Errorf("copy OCI specification: %w", err)
	}
	out := &specs.Spec{}
	return out, json.Unmarshal(text, out)
}

// checkAdjusted refuses what cannot cross to the guest.
func checkAdjusted(before, s *specs.Spec) error {
	if name := firstHook(s.Hooks); name != "" {
		return refuse(name, "hooks are programs of the host, and the container is not on it")
	}
	for _, d := range s.Linux.Devices {
		if !slices.ContainsFunc(before.Linux.Devices, func(b specs.LinuxDevice) bool { return b.Path == d.Path && b.Major == d.Major && b.Minor == d.Minor }) {
			return refuse("linux.devices: "+d.Path, "a virtual machine does not have the host's devices")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.Linux.NetDevices)) {
		return refuse("linux.netDevices: "+name, "a virtual machine does not have the host's network devices")
	}
	r := cmp.Or(s.Linux.Resources, &specs.LinuxResources{})
	was := cmp.Or(before.Linux.Resources, &specs.LinuxResources{})
	for _, f := range []struct {
		field  string
		change bool
		why    string
	}{
		{"linux.resources.devices", !same(was.Devices, r.Devices), "they name the host's devices"},
		{"linux.resources.blockIO", r.BlockIO != nil, "the host's block devices are not in a virtual machine"},
		{"linux.resources.rdma", len(r.Rdma) > 0, "a virtual machine does not have the host's devices"},
		{"linux.intelRdt", s.Linux.IntelRdt != nil, "the host's processor caches cannot be shared out in a virtual machine"},
		{"linux.memoryPolicy", s.Linux.MemoryPolicy != nil, "the host's memory nodes are not in a virtual machine"},
		{"linux.cgroupsPath", s.Linux.CgroupsPath != before.Linux.CgroupsPath, "the container's cgroup is in the guest"},
		{"linux.namespaces", !same(before.Linux.Namespaces, s.Linux.Namespaces), "the container's namespaces are in the guest"},
		{"linux.sysctl", !same(before.Linux.Sysctl, s.Linux.Sysctl), "the guest's are set for the pod as a whole"},
		{"process.ioPriority", s.Process.IOPriority != nil, "it means nothing for the disks of a virtual machine"},
		{"process.scheduler", s.Process.Scheduler != nil, "it would be the guest's, whose processors are threads of the host"},
	} {
		if f.change {
			return refuse(f.field, f.why)
		}
	}
	return nil
}

// same compares as files do, where what is empty is absent.
func same(a, b any) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && absent(x) == absent(y)
}

func absent(text []byte) string {
	switch s := string(text); s {
	case "null", "[]", "{}":
		return ""
	default:
		return s
	}
}

// firstHook is a hook as "hooks.KIND: PATH", empty if there is none.
func firstHook(h *specs.Hooks) string {
	if h == nil {
		return ""
	}
	for _, kind := range []struct {
		name string
		list []specs.Hook
	}{
		{"prestart", h.Prestart}, //nolint:staticcheck // deprecated, but in use
		{"createRuntime", h.CreateRuntime},
		{"createContainer", h.CreateContainer},
		{"startContainer", h.StartContainer},
		{"poststart", h.Poststart},
		{"poststop", h.Poststop},
	} {
		if len(kind.list) > 0 {
			return "hooks." + kind.name + ": " + kind.list[0].Path
		}
	}
	return ""
}

// adjustLimits lets the machine grow for what the container's limit became, and leaves out
// what names processors, memory nodes and pages of the host, as for every container.
func (c *creation) adjustLimits(ctx context.Context, before, s *specs.Spec) error {
	r := s.Linux.Resources
	if r == nil || same(before.Linux.Resources, r) {
		return nil
	}
	if r.CPU != nil {
		r.CPU.Cpus, r.CPU.Mems = "", ""
	}
	r.HugepageLimits = nil
	if r.Memory == nil || r.Memory.Limit == nil {
		return nil
	}
	return c.pod.growFor(ctx, c.id, &runtime.Resources{MemoryLimit: *r.Memory.Limit})
}

// showAdjusted replaces the sources on the host of bind mounts that an adjustment brought
// by those in the guest.
func (c *creation) showAdjusted(ctx context.Context, before []specs.Mount, s *specs.Spec) error {
	shown := false
	for i, m := range s.Mounts {
		if !isBind(m) || slices.ContainsFunc(before, func(b specs.Mount) bool { return same(b, m) }) {
			continue
		}
		volume, err := c.pod.volumes.Add(ctx, c.id, volumeOf(m, s))
		if err == nil {
			s.Mounts[i], err = spec.Bind(volume, volume.Source)
		}
		if err != nil {
			return fmt.Errorf("adjust OCI specification: show volume %s: %w", m.Destination, err)
		}
		shown = true
	}
	if !shown {
		return nil
	}
	return c.pod.keepVolumes()
}

func isBind(m specs.Mount) bool {
	return m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind")
}

// volumeOf reads a bind mount of a specification. Options without a meaning for volumes
// stay as they are.
func volumeOf(m specs.Mount, s *specs.Spec) runtime.Mount {
	out := runtime.Mount{
		Destination: path.Clean(m.Destination), Source: m.Source,
		UIDMappings: slices.Clone(m.UIDMappings), GIDMappings: slices.Clone(m.GIDMappings),
	}
	for _, o := range m.Options {
		switch o {
		case "bind", "rbind", "rw", "private", "rprivate":
		case "ro":
			out.Readonly = true
		case "rro":
			out.Readonly, out.RecursiveReadOnly = true, true
		case "slave", "rslave":
			out.Propagation = runtime.PropagationHostToContainer
		case "shared", "rshared":
			out.Propagation = runtime.PropagationBidirectional
		case "idmap", "ridmap":
			out.UIDMappings, out.GIDMappings = slices.Clone(s.Linux.UIDMappings), slices.Clone(s.Linux.GIDMappings)
		default:
			if !strings.HasPrefix(o, "x-") {
				out.Options = append(out.Options, o)
			}
		}
	}
	return out
}
