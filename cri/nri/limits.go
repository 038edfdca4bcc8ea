package nri

import (
	"fmt"
	"maps"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/containerd/nri/pkg/api"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/spec"
)

// FromLimits are limits in the terms of NRI, nil for nil.
func FromLimits(r *runtime.Resources) *api.LinuxResources {
	if r == nil {
		return nil
	}
	return api.FromOCILinuxResources(spec.Resources(r, true), nil)
}

// apply puts limits as they are now over those of the creation.
func apply(l *api.LinuxContainer, r *runtime.Resources) {
	now := FromLimits(r)
	if l.Resources == nil {
		l.Resources = now
		return
	}
	l.Resources.Cpu, l.Resources.Memory, l.Resources.Pids = now.Cpu, now.Memory, now.Pids
	l.Resources.HugepageLimits, l.Resources.Unified = now.HugepageLimits, now.Unified
}

// Requested are limits of a request in the terms of NRI, nil for nil. Fields that are zero
// are left out: they ask for nothing.
func Requested(r *v1.LinuxContainerResources) *api.LinuxResources {
	if r == nil {
		return nil
	}
	out := &runtime.Resources{
		CPUShares: uint64(max(r.GetCpuShares(), 0)), CPUQuota: r.GetCpuQuota(), CPUPeriod: uint64(max(r.GetCpuPeriod(), 0)),
		CpusetCpus: r.GetCpusetCpus(), CpusetMems: r.GetCpusetMems(),
		MemoryLimit: r.GetMemoryLimitInBytes(), MemorySwapLimit: r.GetMemorySwapLimitInBytes(), Unified: r.GetUnified(),
	}
	for _, l := range r.GetHugepageLimits() {
		if out.HugepageLimits == nil {
			out.HugepageLimits = map[string]uint64{}
		}
		out.HugepageLimits[l.GetPageSize()] = l.GetLimit()
	}
	return FromLimits(out)
}

// Overlay lays what a plugin wants over limits; neither is changed. What is not in u
// stays. Limits that cannot be set are refused by name or, as for every container, left
// out. kept may be nil; the answer is not.
func (l Limits) Overlay(kept *runtime.Resources, u *api.LinuxResources) (*runtime.Resources, error) {
	out := runtime.Resources{}
	if kept != nil {
		out = *kept
	}
	if err := l.refuse(u); err != nil {
		return nil, err
	}
	c, m := u.GetCpu(), u.GetMemory()
	if v := c.GetShares(); v != nil {
		out.CPUShares = v.GetValue()
	}
	if v := c.GetQuota(); v != nil {
		out.CPUQuota = v.GetValue()
	}
	if v := c.GetPeriod(); v != nil {
		out.CPUPeriod = v.GetValue()
	}
	if c.GetCpus() != "" {
		out.CpusetCpus = c.GetCpus()
	}
	if c.GetMems() != "" {
		out.CpusetMems = c.GetMems()
	}
	if v := m.GetLimit().GetValue(); v != 0 {
		out.MemoryLimit = v
		if l.Swap {
			out.MemorySwapLimit = v // no swap, as in a specification that is adjusted and in a request
		}
	}
	if v := m.GetSwap().GetValue(); v != 0 && l.Swap {
		out.MemorySwapLimit = v
	}
	if l.Swap && out.MemoryLimit > 0 && out.MemorySwapLimit > 0 && out.MemorySwapLimit < out.MemoryLimit {
		out.MemorySwapLimit = out.MemoryLimit // no swap, as without a plugin
	}
	if v := u.GetPids().GetLimit(); v != 0 {
		out.PidsLimit = v
	}
	out.HugepageLimits, out.Unified = maps.Clone(out.HugepageLimits), maps.Clone(out.Unified)
	for _, h := range u.GetHugepageLimits() {
		if l.Hugetlb {
			if out.HugepageLimits == nil {
				out.HugepageLimits = map[string]uint64{}
			}
			out.HugepageLimits[h.GetPageSize()] = h.GetLimit()
		}
	}
	for key, value := range u.GetUnified() {
		put(&out.Unified, key, value)
	}
	return &out, nil
}

// Record is Overlay for what a specification was adjusted to at its creation, when more can
// be chosen than a record of limits knows.
func (l Limits) Record(kept *runtime.Resources, u *api.LinuxResources) (*runtime.Resources, error) {
	return l.Overlay(kept, &api.LinuxResources{
		Cpu:    &api.LinuxCPU{Shares: u.GetCpu().GetShares(), Quota: u.GetCpu().GetQuota(), Period: u.GetCpu().GetPeriod(), Cpus: u.GetCpu().GetCpus(), Mems: u.GetCpu().GetMems()},
		Memory: u.GetMemory(), Pids: u.GetPids(), HugepageLimits: u.GetHugepageLimits(), Unified: u.GetUnified(),
	})
}

// refuse names what of an update cannot be done.
func (l Limits) refuse(u *api.LinuxResources) error {
	var kind error = errdefs.ErrNotImplemented
	field := ""
	switch names := slices.Sorted(maps.Keys(u.GetUnified())); {
	case !l.CgroupV2 && len(names) > 0:
		kind, field = errdefs.ErrInvalidArgument, "unified["+names[0]+"]: the host has cgroup v1"
	case u.GetBlockioClass() != nil:
		field = "blockioClass: there are no block I/O classes"
	case u.GetRdtClass() != nil:
		field = "rdtClass: the class of a container is chosen when it is created"
	case u.GetCpu().GetRealtimeRuntime().GetValue() != 0, u.GetCpu().GetRealtimePeriod().GetValue() != 0:
		field = "cpu.realtime: it is chosen when a container is created"
	case memoryField(u.GetMemory()) != "":
		field = "memory." + memoryField(u.GetMemory()) + ": only limit and swap can be set"
	default:
		return nil
	}
	return fmt.Errorf("linux.resources.%s: %w", field, kind)
}

// memoryField is a setting of memory beside limit and swap, empty if there is none.
func memoryField(m *api.LinuxMemory) string {
	switch {
	case m.GetReservation() != nil:
		return "reservation"
	case m.GetKernel() != nil:
		return "kernel"
	case m.GetKernelTcp() != nil:
		return "kernelTCP"
	case m.GetSwappiness() != nil:
		return "swappiness"
	case m.GetDisableOomKiller() != nil:
		return "disableOOMKiller"
	case m.GetUseHierarchy() != nil:
		return "useHierarchy"
	}
	return ""
}
