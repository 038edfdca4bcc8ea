package spec

import (
	"maps"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cricket-cri/cricket/runtime"
)

func process(c runtime.Config, p Place) *specs.Process {
	cwd := c.Cwd
	if cwd == "" {
		cwd = "/"
	}
	user := c.User
	user.AdditionalGids = slices.Clone(c.User.AdditionalGids)
	return &specs.Process{
		Terminal:        c.Terminal,
		User:            user,
		Args:            slices.Clone(c.Args),
		Env:             slices.Clone(c.Env),
		Cwd:             cwd,
		Capabilities:    capabilities(c, p),
		Rlimits:         slices.Clone(p.Rlimits),
		NoNewPrivileges: c.NoNewPrivileges,
		ApparmorProfile: c.ApparmorProfile,
		SelinuxLabel:    c.SELinuxLabel,
		OOMScoreAdj:     oomScoreAdj(c, p),
	}
}

// capabilities are those that the container asked for and the OCI runtime can give.
// A privileged container has all of them.
func capabilities(c runtime.Config, p Place) *specs.LinuxCapabilities {
	if c.Privileged {
		all := slices.Clone(p.HostCapabilities)
		out := &specs.LinuxCapabilities{Bounding: all, Effective: slices.Clone(all), Permitted: slices.Clone(all)}
		if c.Capabilities != nil {
			out.Ambient = intersect(c.Capabilities.Ambient, p.HostCapabilities)
			out.Inheritable = intersect(c.Capabilities.Inheritable, p.HostCapabilities)
		}
		return out
	}
	if c.Capabilities == nil {
		return &specs.LinuxCapabilities{}
	}
	return &specs.LinuxCapabilities{
		Bounding:    intersect(c.Capabilities.Bounding, p.HostCapabilities),
		Effective:   intersect(c.Capabilities.Effective, p.HostCapabilities),
		Inheritable: intersect(c.Capabilities.Inheritable, p.HostCapabilities),
		Permitted:   intersect(c.Capabilities.Permitted, p.HostCapabilities),
		Ambient:     intersect(c.Capabilities.Ambient, p.HostCapabilities),
	}
}

// intersect keeps the order of list.
func intersect(list, allowed []string) []string {
	var out []string
	for _, name := range list {
		if slices.Contains(allowed, name) {
			out = append(out, name)
		}
	}
	return out
}

// oomScoreAdj is what the container asked for, as far as the kernel lets the OCI
// runtime set it. A container that did not ask gets 0 rather than the protection of the
// daemon that it descends from.
func oomScoreAdj(c runtime.Config, p Place) *int {
	want := 0
	switch {
	case c.OOMScoreAdj != nil:
		want = *c.OOMScoreAdj
	case c.Resources != nil && c.Resources.OOMScoreAdj != nil:
		want = *c.Resources.OOMScoreAdj
	}
	return possible(&want, p)
}

// possible is what the kernel lets the OCI runtime set of a score, nil for nil.
func possible(score *int, p Place) *int {
	if score != nil && *score < p.OOMScoreAdj && !slices.Contains(p.HostCapabilities, "CAP_SYS_RESOURCE") {
		own := p.OOMScoreAdj
		return &own
	}
	return score
}

// Resources translates r for an OCI specification or an update of a running container.
// It never returns nil. Files of cgroup v2 in r.Unified are left out on v1, which has
// none.
func Resources(r *runtime.Resources, v2 bool) *specs.LinuxResources {
	out := &specs.LinuxResources{}
	if r == nil {
		return out
	}
	out.CPU = cpu(r)
	if r.MemoryLimit != 0 || r.MemorySwapLimit != 0 {
		out.Memory = &specs.LinuxMemory{Limit: set(r.MemoryLimit), Swap: set(r.MemorySwapLimit)}
	}
	if r.PidsLimit != 0 {
		out.Pids = &specs.LinuxPids{Limit: set(r.PidsLimit)}
	}
	for _, size := range slices.Sorted(maps.Keys(r.HugepageLimits)) {
		out.HugepageLimits = append(out.HugepageLimits, specs.LinuxHugepageLimit{Pagesize: size, Limit: r.HugepageLimits[size]})
	}
	if v2 {
		out.Unified = maps.Clone(r.Unified)
	}
	return out
}

func cpu(r *runtime.Resources) *specs.LinuxCPU {
	if r.CPUShares == 0 && r.CPUQuota == 0 && r.CPUPeriod == 0 && r.CpusetCpus == "" && r.CpusetMems == "" {
		return nil
	}
	return &specs.LinuxCPU{
		Shares: set(r.CPUShares),
		Quota:  set(r.CPUQuota),
		Period: set(r.CPUPeriod),
		Cpus:   r.CpusetCpus,
		Mems:   r.CpusetMems,
	}
}

// set returns nil for the zero value, which means "leave it".
func set[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}
