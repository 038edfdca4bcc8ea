package executor

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// setting is a value for a file of a cgroup.
type setting struct {
	file, value string
	// optional: a kernel without the file behaves as if it had been set.
	optional bool
}

// limits translates resources for cgroup v2. What is nil is left as it is.
func limits(r *specs.LinuxResources) ([]setting, error) {
	if r == nil {
		return nil, nil
	}
	var out []setting
	add := func(file, value string) { out = append(out, setting{file: file, value: value}) }
	if r.BlockIO != nil || r.Network != nil || len(r.Rdma) > 0 {
		return nil, fmt.Errorf("set limits of block devices, network or RDMA: %w", errdefs.ErrNotImplemented)
	}
	if c := r.CPU; c != nil {
		out = append(out, cpuLimits(c)...)
	}
	if m := r.Memory; m != nil {
		memory, err := memoryLimits(m)
		if err != nil {
			return nil, err
		}
		out = append(out, memory...)
	}
	if r.Pids != nil && r.Pids.Limit != nil {
		add("pids.max", maximum(*r.Pids.Limit))
	}
	for _, h := range r.HugepageLimits {
		out = append(out, setting{file: "hugetlb." + h.Pagesize + ".max", value: strconv.FormatUint(h.Limit, 10), optional: h.Limit == 0})
	}
	for _, file := range slices.Sorted(maps.Keys(r.Unified)) {
		if strings.Contains(file, "/") || !strings.Contains(file, ".") {
			return nil, fmt.Errorf("set %q of a cgroup: %w", file, errdefs.ErrInvalidArgument)
		}
		add(file, r.Unified[file])
	}
	return out, nil
}

func cpuLimits(c *specs.LinuxCPU) (out []setting) {
	if c.Shares != nil && *c.Shares != 0 {
		out = append(out, setting{file: "cpu.weight", value: strconv.FormatUint(weight(*c.Shares), 10)})
	}
	if c.Idle != nil {
		out = append(out, setting{file: "cpu.idle", value: strconv.FormatInt(*c.Idle, 10)})
	}
	if c.Quota != nil || c.Period != nil {
		quota := "max"
		if c.Quota != nil && *c.Quota > 0 {
			quota = strconv.FormatInt(*c.Quota, 10)
		}
		if c.Period != nil && *c.Period != 0 {
			quota += " " + strconv.FormatUint(*c.Period, 10)
		}
		out = append(out, setting{file: "cpu.max", value: quota})
	}
	if c.Burst != nil {
		out = append(out, setting{file: "cpu.max.burst", value: strconv.FormatUint(*c.Burst, 10)})
	}
	if c.Cpus != "" {
		out = append(out, setting{file: "cpuset.cpus", value: c.Cpus})
	}
	if c.Mems != "" {
		out = append(out, setting{file: "cpuset.mems", value: c.Mems})
	}
	return out
}

// weight translates the shares of cgroup v1, 2 to 262144, into a weight of 1 to 10000.
func weight(shares uint64) uint64 {
	shares = min(max(shares, 2), 262144)
	return 1 + (shares-2)*9999/262142
}

// memoryLimits sets the limit for swap first if it falls and last if it grows: either
// order can be refused, but the kernel checks each for itself here.
func memoryLimits(m *specs.LinuxMemory) (out []setting, err error) {
	if m.Limit != nil && *m.Limit != 0 {
		out = append(out, setting{file: "memory.max", value: maximum(*m.Limit)})
	}
	if m.Reservation != nil && *m.Reservation != 0 {
		out = append(out, setting{file: "memory.low", value: maximum(*m.Reservation)})
	}
	swap, ok, err := swapLimit(m)
	if err != nil {
		return nil, err
	}
	if ok {
		// Without the file there is no swap.
		out = append(out, setting{file: "memory.swap.max", value: swap, optional: true})
	}
	return out, nil
}

// swapLimit is for swap alone, where the specification means memory and swap together.
func swapLimit(m *specs.LinuxMemory) (value string, ok bool, err error) {
	limit, swap := int64(0), int64(0)
	if m.Limit != nil {
		limit = *m.Limit
	}
	if m.Swap != nil {
		swap = *m.Swap
	}
	switch {
	case limit == -1 && swap == 0, swap == -1:
		return "max", true, nil
	case swap == 0:
		return "", false, nil
	case limit <= 0:
		return "", false, fmt.Errorf("set a limit of swap without one of memory: %w", errdefs.ErrInvalidArgument)
	case swap < limit:
		return "", false, fmt.Errorf("set a limit of memory and swap (%d) below that of memory (%d): %w", swap, limit, errdefs.ErrInvalidArgument)
	}
	return strconv.FormatInt(swap-limit, 10), true, nil
}

func maximum(v int64) string {
	if v < 0 {
		return "max"
	}
	return strconv.FormatInt(v, 10)
}
