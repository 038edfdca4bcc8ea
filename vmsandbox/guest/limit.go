package guest

import (
	"context"
	"fmt"
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cricket-cri/cricket/vmsandbox/agent"
)

// Limit implements agent.Guest. What r leaves out stays as it is.
func (g *Guest) Limit(_ context.Context, r *specs.LinuxResources) error {
	if r == nil {
		return nil
	}
	if r.Memory != nil && r.Memory.Limit != nil {
		g.mu.Lock()
		g.wanted = uint64(max(*r.Memory.Limit, 0))
		err := g.limitMemory()
		g.mu.Unlock()
		if err != nil {
			return err
		}
	}
	for _, f := range limitFiles(r) {
		if err := writeCgroup(agent.PodCgroup, f.name, f.value); err != nil {
			return fmt.Errorf("limit pod: %w: %w", errdefs.ErrInvalidArgument, err)
		}
	}
	return nil
}

// limitMemory sets the limit of all containers; the caller has the lock.
func (g *Guest) limitMemory() error {
	limit := podMemory(g.wanted, g.memory)
	if err := writeCgroup(agent.PodCgroup, "memory.max", strconv.FormatUint(limit, 10)); err != nil {
		return fmt.Errorf("limit memory of the pod: %w: %w", errdefs.ErrInternal, err)
	}
	return nil
}

// limitFile is a file of a cgroup and what is to be written to it.
type limitFile struct{ name, value string }

// limitFiles translates limits, memory's own apart, to files of cgroup version 2.
func limitFiles(r *specs.LinuxResources) []limitFile {
	var out []limitFile
	add := func(name, value string) { out = append(out, limitFile{name, value}) }
	if c := r.CPU; c != nil {
		if c.Shares != nil && *c.Shares > 0 {
			add("cpu.weight", strconv.FormatUint(cpuWeight(*c.Shares), 10))
		}
		if c.Quota != nil || c.Period != nil {
			add("cpu.max", cpuMax(c.Quota, c.Period))
		}
	}
	if m := r.Memory; m != nil && m.Swap != nil && m.Limit != nil {
		// The specification counts memory and swap together.
		switch {
		case *m.Swap < 0:
			add("memory.swap.max", "max")
		case *m.Swap >= *m.Limit:
			add("memory.swap.max", strconv.FormatInt(*m.Swap-*m.Limit, 10))
		}
	}
	if p := r.Pids; p != nil && p.Limit != nil {
		if *p.Limit > 0 {
			add("pids.max", strconv.FormatInt(*p.Limit, 10))
		} else {
			add("pids.max", "max")
		}
	}
	for _, h := range r.HugepageLimits {
		add("hugetlb."+h.Pagesize+".max", strconv.FormatUint(h.Limit, 10))
	}
	for _, name := range []string{"cpu.weight", "memory.high", "memory.low", "memory.min", "cpu.idle"} {
		if value, ok := r.Unified[name]; ok {
			add(name, value)
		}
	}
	return out
}

// cpuWeight converts cgroup version 1's shares (2 to 262144) to a weight (1 to 10000), as
// the kubelet and runc do.
func cpuWeight(shares uint64) uint64 {
	shares = min(max(shares, 2), 262144)
	return 1 + (shares-2)*9999/262142
}

// cpuMax is the content of cpu.max: microseconds in each period of so many.
func cpuMax(quota *int64, period *uint64) string {
	value := "max"
	if quota != nil && *quota > 0 {
		value = strconv.FormatInt(*quota, 10)
	}
	if period != nil && *period > 0 {
		value += " " + strconv.FormatUint(*period, 10)
	}
	return value
}
