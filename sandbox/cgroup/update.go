package cgroup

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
)

// setting is a value for a file of a controller.
type setting struct {
	controller, file, value string
}

// Update changes the limits of the cgroup at path; fields of r that are zero stay as
// they are. errdefs.ErrInvalidArgument: the kernel refuses a value.
func (t *Tree) Update(path string, r *runtime.Resources) error {
	if err := checkPath(path); err != nil {
		return err
	}
	if r == nil {
		return nil
	}
	settings := t.v1Settings(r)
	if t.Unified() {
		settings = v2Settings(r)
	}
	return t.write(path, settings)
}

func (t *Tree) write(path string, settings []setting) error {
	var refused []setting
	for _, s := range settings {
		err := t.writeOne(path, s)
		// Memory below memory and swap together: which of the two has to be changed
		// first depends on what they were, so the loser gets a second try.
		if errors.Is(err, unix.EINVAL) && s.controller == "memory" {
			refused = append(refused, s)
			continue
		}
		if err != nil {
			return err
		}
	}
	for _, s := range refused {
		if err := t.writeOne(path, s); err != nil {
			return err
		}
	}
	return nil
}

func (t *Tree) writeOne(path string, s setting) error {
	file := t.file(s.controller, path, s.file)
	if file == "" {
		return fmt.Errorf("set %s: the controller is not there: %w", s.file, errdefs.ErrFailedPrecondition)
	}
	err := os.WriteFile(file, []byte(s.value), 0)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrNotExist) && !t.Exists(path):
		return fmt.Errorf("set %s: %w: %w", s.file, errdefs.ErrNotFound, err)
	case errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ERANGE):
		return fmt.Errorf("set %s to %q: %w: %w", s.file, s.value, errdefs.ErrInvalidArgument, err)
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("set %s to %q: %w: %w", s.file, s.value, errdefs.ErrFailedPrecondition, err)
	}
	return fmt.Errorf("set %s to %q: %w", s.file, s.value, err)
}

func (t *Tree) v1Settings(r *runtime.Resources) []setting {
	var all []setting
	add := func(controller, file string, value int64) {
		if value != 0 {
			all = append(all, setting{controller, file, strconv.FormatInt(value, 10)})
		}
	}
	add("cpu", "cpu.shares", int64(r.CPUShares))
	add("cpu", "cpu.cfs_period_us", int64(r.CPUPeriod))
	add("cpu", "cpu.cfs_quota_us", r.CPUQuota)
	all = append(all, cpusets(r)...)
	add("memory", "memory.limit_in_bytes", r.MemoryLimit)
	if t.mounts["memory"] != "" && unix.Access(t.mounts["memory"]+"/memory.memsw.limit_in_bytes", unix.F_OK) == nil {
		add("memory", "memory.memsw.limit_in_bytes", r.MemorySwapLimit)
	}
	if r.PidsLimit < 0 {
		all = append(all, setting{"pids", "pids.max", "max"})
	} else {
		add("pids", "pids.max", r.PidsLimit)
	}
	for size, limit := range r.HugepageLimits {
		all = append(all, setting{"hugetlb", "hugetlb." + size + ".limit_in_bytes", strconv.FormatUint(limit, 10)})
	}
	return all
}

func v2Settings(r *runtime.Resources) []setting {
	var all []setting
	add := func(controller, file, value string) { all = append(all, setting{controller, file, value}) }
	if r.CPUShares != 0 {
		add("cpu", "cpu.weight", strconv.FormatUint(weight(r.CPUShares), 10))
	}
	if r.CPUQuota != 0 || r.CPUPeriod != 0 {
		add("cpu", "cpu.max", cpuMax(r.CPUQuota, r.CPUPeriod))
	}
	all = append(all, cpusets(r)...)
	if r.MemoryLimit != 0 {
		add("memory", "memory.max", orMax(r.MemoryLimit))
	}
	if swap, ok := swapMax(r); ok {
		add("memory", "memory.swap.max", swap)
	}
	if r.PidsLimit != 0 {
		add("pids", "pids.max", orMax(r.PidsLimit))
	}
	for size, limit := range r.HugepageLimits {
		add("hugetlb", "hugetlb."+size+".max", strconv.FormatUint(limit, 10))
	}
	for file, value := range r.Unified {
		// The name comes from a client: it must not lead out of the cgroup.
		if !strings.Contains(file, "/") {
			add("unified", file, value)
		}
	}
	return all
}

func cpusets(r *runtime.Resources) []setting {
	var all []setting
	if r.CpusetCpus != "" {
		all = append(all, setting{"cpuset", "cpuset.cpus", r.CpusetCpus})
	}
	if r.CpusetMems != "" {
		all = append(all, setting{"cpuset", "cpuset.mems", r.CpusetMems})
	}
	return all
}

// weight maps cpu.shares (2 to 262144) to cpu.weight (1 to 10000) as Kubernetes does.
func weight(shares uint64) uint64 {
	shares = min(max(shares, 2), 262144)
	return 1 + (shares-2)*9999/262142
}

func cpuMax(quota int64, period uint64) string {
	if period == 0 {
		period = 100_000
	}
	if quota <= 0 {
		return "max " + strconv.FormatUint(period, 10)
	}
	return strconv.FormatInt(quota, 10) + " " + strconv.FormatUint(period, 10)
}

// swapMax is swap alone, as v2 has it; the OCI has memory and swap together.
func swapMax(r *runtime.Resources) (string, bool) {
	switch {
	case r.MemorySwapLimit < 0:
		return "max", true
	case r.MemorySwapLimit == 0 || r.MemoryLimit <= 0 || r.MemorySwapLimit < r.MemoryLimit:
		return "", false
	}
	return strconv.FormatInt(r.MemorySwapLimit-r.MemoryLimit, 10), true
}

func orMax(limit int64) string {
	if limit < 0 {
		return "max"
	}
	return strconv.FormatInt(limit, 10)
}
