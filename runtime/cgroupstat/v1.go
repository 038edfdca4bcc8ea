package cgroupstat

import "github.com/cricket-cri/cricket/runtime"

func (m *Meter) v1(r *reader, s *runtime.Stat) {
	s.CPUNanos = r.figureOf("cpuacct", "cpuacct.usage")
	s.CPUUserNanos, s.CPUSystemNanos = r.figureOf("cpuacct", "cpuacct.usage_user"), r.figureOf("cpuacct", "cpuacct.usage_sys")
	cpu := r.read("cpu", "cpu.stat")
	s.CPUPeriods, s.CPUThrottledPeriods = r.figureIn(cpu, "nr_periods"), r.figureIn(cpu, "nr_throttled")
	s.CPUThrottledNanos = r.figureIn(cpu, "throttled_time")
	s.CPUBursts, s.CPUBurstNanos = r.figureIn(cpu, "nr_bursts"), r.figureIn(cpu, "burst_time")
	s.Pids = r.figureOf("pids", "pids.current")
	m.v1Memory(r, s)
	m.v1Limits(r, &s.Limits)
	s.IO = v1IO(r)
	for _, size := range m.sizes {
		if usage := r.figureOf("hugetlb", "hugetlb."+size+".usage_in_bytes"); usage != nil {
			most := r.figureOf("hugetlb", "hugetlb."+size+".max_usage_in_bytes")
			s.Hugetlb = append(s.Hugetlb, runtime.HugetlbStat{PageSize: size, Usage: usage, MaxUsage: most})
		}
	}
}

func (m *Meter) v1Memory(r *reader, s *runtime.Stat) {
	s.OOMKills = r.figureIn(r.read("memory", "memory.oom_control"), "oom_kill")
	to := &s.Memory
	to.Usage, to.MaxUsage = r.figureOf("memory", "memory.usage_in_bytes"), r.figureOf("memory", "memory.max_usage_in_bytes")
	to.FailCount, to.Kernel = r.figureOf("memory", "memory.failcnt"), r.figureOf("memory", "memory.kmem.usage_in_bytes")
	both, bothLimit := r.figureOf("memory", "memory.memsw.usage_in_bytes"), r.figureOf("memory", "memory.memsw.limit_in_bytes")
	stat := r.read("memory", "memory.stat")
	// The limits that count are the tightest of all ancestors', which only this file has.
	if limit, ok := line(stat, "hierarchical_memory_limit"); ok && limit < noLimit {
		to.Limit = r.figure(limit)
	}
	to.RSS, to.Cache, to.MappedFile = r.figureIn(stat, "total_rss"), r.figureIn(stat, "total_cache"), r.figureIn(stat, "total_mapped_file")
	to.ActiveFile, to.InactiveFile = r.figureIn(stat, "total_active_file"), r.figureIn(stat, "total_inactive_file")
	to.FileDirty, to.FileWriteback = r.figureIn(stat, "total_dirty"), r.figureIn(stat, "total_writeback")
	to.PageFaults, to.MajorPageFaults = r.figureIn(stat, "total_pgfault"), r.figureIn(stat, "total_pgmajfault")
	to.OwnPageFaults, to.OwnMajorPageFaults = r.figureIn(stat, "pgfault"), r.figureIn(stat, "pgmajfault")
	to.RefaultsFile, to.RefaultsAnon = r.figureIn(stat, "total_workingset_refault_file"), r.figureIn(stat, "total_workingset_refault_anon")
	if both == nil || to.Usage == nil {
		return
	}
	// memsw counts memory and swap together.
	s.Swap.Usage = r.figure(less(*both, *to.Usage))
	if bothLimit != nil && *bothLimit < noLimit && to.Limit != nil {
		s.Swap.Available = r.figure(less(less(*bothLimit, *to.Limit), *s.Swap.Usage))
	}
}

func (m *Meter) v1Limits(r *reader, l *runtime.LimitStat) {
	l.CPUShares = r.figureOf("cpu", "cpu.shares")
	l.CPUQuota = r.figureOf("cpu", "cpu.cfs_quota_us") // -1, no quota, is no number
	l.CPUPeriod = r.figureOf("cpu", "cpu.cfs_period_us")
	l.Memory, l.MemoryReservation = r.limit("memory", "memory.limit_in_bytes"), r.limit("memory", "memory.soft_limit_in_bytes")
	l.Swap, l.Pids = r.limit("memory", "memory.memsw.limit_in_bytes"), r.limit("pids", "pids.max")
}
