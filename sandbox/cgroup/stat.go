package cgroup

import (
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cricket-cri/cricket/runtime"
)

// noLimit is where the kernel's way to say "no limit" begins on v1.
const noLimit = 1 << 62

// Stat fills s with the figures of the cgroup at path, those of its descendants
// included. errdefs.ErrNotFound: there is no such cgroup.
func (t *Tree) Stat(path string, s *runtime.Stat) error {
	if err := checkPath(path); err != nil {
		return err
	}
	r := &reader{tree: t, path: path, block: make([]uint64, 0, blockSize)}
	r.buf = t.buffers.Get().(*buffer)
	defer t.buffers.Put(r.buf)

	*s = runtime.Stat{At: time.Now()}
	s.Pids = r.figureOf("pids", "pids.current")
	if t.Unified() {
		r.v2(s)
	} else {
		r.v1(s)
	}
	if s.Memory.Usage == nil && s.Pids == nil && s.CPUNanos == nil && !t.Exists(path) {
		return fmt.Errorf("measure cgroup %s: %w", path, errdefs.ErrNotFound)
	}
	return nil
}

func (r *reader) v1(s *runtime.Stat) {
	s.CPUNanos = r.figureOf("cpuacct", "cpuacct.usage")
	cpu := r.read("cpu", "cpu.stat")
	s.CPUPeriods = r.figureIn(cpu, "nr_periods")
	s.CPUThrottledPeriods = r.figureIn(cpu, "nr_throttled")
	s.CPUThrottledNanos = r.figureIn(cpu, "throttled_time")

	s.OOMKills = r.figureIn(r.read("memory", "memory.oom_control"), "oom_kill")
	m := &s.Memory
	m.Usage = r.figureOf("memory", "memory.usage_in_bytes")
	m.MaxUsage = r.figureOf("memory", "memory.max_usage_in_bytes")
	m.FailCount = r.figureOf("memory", "memory.failcnt")
	swapUsage, swapLimit := r.v1Swap()
	stat := r.read("memory", "memory.stat")
	// The limits that count are the tightest of all ancestors', which only this file has.
	limit, limited := line(stat, "hierarchical_memory_limit")
	r.memory(m, stat, memoryKeys{
		rss: "total_rss", cache: "total_cache", mapped: "total_mapped_file",
		inactiveFile: "total_inactive_file", faults: "total_pgfault", majorFaults: "total_pgmajfault",
	}, limit, limited && limit < noLimit)
	if swapUsage == nil || m.Usage == nil {
		return
	}
	// memsw counts memory and swap together.
	s.Swap.Usage = r.figure(less(*swapUsage, *m.Usage))
	if swapLimit != nil && *swapLimit < noLimit && m.Limit != nil {
		s.Swap.Available = r.figure(less(less(*swapLimit, *m.Limit), *s.Swap.Usage))
	}
}

func (r *reader) v1Swap() (usage, limit *uint64) {
	return r.figureOf("memory", "memory.memsw.usage_in_bytes"), r.figureOf("memory", "memory.memsw.limit_in_bytes")
}

func (r *reader) v2(s *runtime.Stat) {
	cpu := r.read(v2, "cpu.stat")
	s.CPUNanos = r.micros(cpu, "usage_usec")
	s.CPUPeriods = r.figureIn(cpu, "nr_periods")
	s.CPUThrottledPeriods = r.figureIn(cpu, "nr_throttled")
	s.CPUThrottledNanos = r.micros(cpu, "throttled_usec")

	events := r.read(v2, "memory.events")
	s.OOMKills = r.figureIn(events, "oom_kill")
	m := &s.Memory
	m.FailCount = r.figureIn(events, "max")
	m.Usage = r.figureOf(v2, "memory.current")
	m.MaxUsage = r.figureOf(v2, "memory.peak")
	limit, limited := r.number(v2, "memory.max")
	s.Swap.Usage = r.figureOf(v2, "memory.swap.current")
	if swap, ok := r.number(v2, "memory.swap.max"); ok && s.Swap.Usage != nil {
		s.Swap.Available = r.figure(less(swap, *s.Swap.Usage))
	}
	r.memory(m, r.read(v2, "memory.stat"), memoryKeys{
		rss: "anon", cache: "file", mapped: "file_mapped",
		inactiveFile: "inactive_file", faults: "pgfault", majorFaults: "pgmajfault",
	}, limit, limited)

	s.CPUPressure = r.pressure("cpu.pressure")
	s.MemoryPressure = r.pressure("memory.pressure")
	s.IOPressure = r.pressure("io.pressure")
}

func (r *reader) micros(content []byte, key string) *uint64 {
	if v, ok := line(content, key); ok {
		return r.figure(v * 1000)
	}
	return nil
}

// memoryKeys are the names in memory.stat, which differ between v1 and v2.
type memoryKeys struct {
	rss, cache, mapped, inactiveFile, faults, majorFaults string
}

func (r *reader) memory(m *runtime.MemoryStat, stat []byte, k memoryKeys, limit uint64, limited bool) {
	m.RSS = r.figureIn(stat, k.rss)
	m.Cache = r.figureIn(stat, k.cache)
	m.MappedFile = r.figureIn(stat, k.mapped)
	m.PageFaults = r.figureIn(stat, k.faults)
	m.MajorPageFaults = r.figureIn(stat, k.majorFaults)
	if m.Usage == nil {
		return
	}
	inactive, _ := line(stat, k.inactiveFile)
	m.WorkingSet = r.figure(less(*m.Usage, inactive))
	if limited {
		m.Limit = r.figure(limit)
		m.Available = r.figure(less(limit, *m.WorkingSet))
	}
}

// less is a-b, and 0 where figures that were read one after the other do not fit.
func less(a, b uint64) uint64 {
	if b > a {
		return 0
	}
	return a - b
}
