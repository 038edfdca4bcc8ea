package cri

import (
	"maps"
	"regexp"
	"slices"
	"strings"

	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/runtime"
)

// convertResources is nil for nil. A memory limit without one of swap excludes swap.
func convertResources(field string, r *v1.LinuxContainerResources, h hostFacts) (*runtime.Resources, error) {
	if r == nil {
		return nil, nil
	}
	if err := checkResources(field, r, h); err != nil {
		return nil, err
	}
	adj := int(r.GetOomScoreAdj())
	out := &runtime.Resources{
		CPUShares:       uint64(r.GetCpuShares()),
		CPUQuota:        r.GetCpuQuota(),
		CPUPeriod:       uint64(r.GetCpuPeriod()),
		CpusetCpus:      r.GetCpusetCpus(),
		CpusetMems:      r.GetCpusetMems(),
		MemoryLimit:     r.GetMemoryLimitInBytes(),
		MemorySwapLimit: swapLimit(r, h),
		OOMScoreAdj:     &adj,
		Unified:         maps.Clone(r.GetUnified()),
	}
	for _, l := range r.GetHugepageLimits() {
		if !h.Hugetlb {
			break
		}
		if out.HugepageLimits == nil {
			out.HugepageLimits = map[string]uint64{}
		}
		out.HugepageLimits[l.GetPageSize()] = l.GetLimit()
	}
	return out, nil
}

func swapLimit(r *v1.LinuxContainerResources, h hostFacts) int64 {
	switch {
	case !h.Swap:
		return 0
	case r.GetMemorySwapLimitInBytes() != 0:
		return r.GetMemorySwapLimitInBytes()
	}
	return r.GetMemoryLimitInBytes()
}

func checkResources(field string, r *v1.LinuxContainerResources, h hostFacts) error {
	for name, v := range map[string]int64{"cpu_period": r.GetCpuPeriod(), "cpu_shares": r.GetCpuShares()} {
		if v < 0 {
			return badField(field+"."+name, "%d is negative", v)
		}
	}
	memory, swap := r.GetMemoryLimitInBytes(), r.GetMemorySwapLimitInBytes()
	// -1 is "no limit" to the kernel.
	for name, v := range map[string]int64{
		"cpu_quota": r.GetCpuQuota(), "memory_limit_in_bytes": memory, "memory_swap_limit_in_bytes": swap,
	} {
		if v < -1 {
			return badField(field+"."+name, "%d is negative", v)
		}
	}
	if swap > 0 && memory > 0 && swap < memory {
		return badField(field+".memory_swap_limit_in_bytes", "%d is less than the memory limit: it counts memory and swap together", swap)
	}
	if adj := r.GetOomScoreAdj(); adj < -1000 || adj > 1000 {
		return badField(field+".oom_score_adj", "%d is not in [-1000, 1000]", adj)
	}
	if err := checkCPUSet(field+".cpuset_cpus", r.GetCpusetCpus()); err != nil {
		return err
	}
	if err := checkCPUSet(field+".cpuset_mems", r.GetCpusetMems()); err != nil {
		return err
	}
	if err := checkUnified(field+".unified", r.GetUnified(), h); err != nil {
		return err
	}
	return checkHugepages(field+".hugepage_limits", r.GetHugepageLimits(), h)
}

func checkCPUSet(field, set string) error {
	if strings.Trim(set, "0123456789,-") != "" {
		return badField(field, "%q is not a list of numbers and ranges", set)
	}
	return nil
}

func checkUnified(field string, files map[string]string, h hostFacts) error {
	for name := range files {
		switch {
		case !h.CgroupV2:
			return badField(in(field, name), "the host has cgroup v1")
		case name == "" || strings.ContainsAny(name, "/\x00") || !strings.Contains(name, "."):
			return badField(in(field, name), "is not a file of a cgroup controller")
		}
	}
	return nil
}

// checkHugepages passes over limits of 0 where there is nothing to limit: the kubelet sends
// one for each size that the host has.
func checkHugepages(field string, limits []*v1.HugepageLimit, h hostFacts) error {
	size := regexp.MustCompile(`^[1-9][0-9]*[KMG]B$`)
	seen := map[string]bool{}
	for i, l := range limits {
		switch {
		case !size.MatchString(l.GetPageSize()):
			return badField(at(field, i)+".page_size", "%q is not of the form 2MB", l.GetPageSize())
		case seen[l.GetPageSize()]:
			return badField(at(field, i)+".page_size", "%s is there twice", l.GetPageSize())
		case l.GetLimit() > 0 && !h.Hugetlb:
			return badField(at(field, i)+".limit", "%d: nothing accounts for huge pages there", l.GetLimit())
		}
		seen[l.GetPageSize()] = true
	}
	return nil
}

// mergeResources applies an update to what a container has: fields that the update
// leaves zero stay. Neither argument is changed. The OOM score belongs to the process
// and cannot be updated.
func mergeResources(kept *runtime.Resources, update *v1.LinuxContainerResources, h hostFacts) (*runtime.Resources, error) {
	if update == nil {
		return nil, badField("linux", "is required")
	}
	u, err := convertResources("linux", update, h)
	if err != nil {
		return nil, err
	}
	if kept == nil {
		kept = &runtime.Resources{}
	}
	out := kept.With(u)
	if out.MemorySwapLimit > 0 && out.MemoryLimit > out.MemorySwapLimit {
		return nil, badField("linux.memory_swap_limit_in_bytes", "%d is less than the memory limit: it counts memory and swap together", out.MemorySwapLimit)
	}
	return out, nil
}

// statusResources are r in the terms of ContainerStatus, nil for nil.
func statusResources(r *runtime.Resources) *v1.ContainerResources {
	if r == nil {
		return nil
	}
	out := &v1.LinuxContainerResources{
		CpuShares:              int64(r.CPUShares),
		CpuQuota:               r.CPUQuota,
		CpuPeriod:              int64(r.CPUPeriod),
		CpusetCpus:             r.CpusetCpus,
		CpusetMems:             r.CpusetMems,
		MemoryLimitInBytes:     r.MemoryLimit,
		MemorySwapLimitInBytes: r.MemorySwapLimit,
		Unified:                maps.Clone(r.Unified),
	}
	if r.OOMScoreAdj != nil {
		out.OomScoreAdj = int64(*r.OOMScoreAdj)
	}
	for _, size := range slices.Sorted(maps.Keys(r.HugepageLimits)) {
		out.HugepageLimits = append(out.HugepageLimits, &v1.HugepageLimit{PageSize: size, Limit: r.HugepageLimits[size]})
	}
	return &v1.ContainerResources{Linux: out}
}
