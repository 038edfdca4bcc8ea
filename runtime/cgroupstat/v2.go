package cgroupstat

import (
	"bytes"

	"github.com/cricket-cri/cricket/runtime"
)

func (m *Meter) v2(r *reader, s *runtime.Stat) {
	cpu := r.read("", "cpu.stat")
	s.CPUNanos = r.micros(cpu, "usage_usec")
	s.CPUUserNanos, s.CPUSystemNanos = r.micros(cpu, "user_usec"), r.micros(cpu, "system_usec")
	s.CPUPeriods, s.CPUThrottledPeriods = r.figureIn(cpu, "nr_periods"), r.figureIn(cpu, "nr_throttled")
	s.CPUThrottledNanos = r.micros(cpu, "throttled_usec")
	s.CPUBursts, s.CPUBurstNanos = r.figureIn(cpu, "nr_bursts"), r.micros(cpu, "burst_usec")
	s.Pids = r.figureOf("", "pids.current")
	m.v2Memory(r, s)
	m.v2Limits(r, &s.Limits)
	s.IO = v2IO(r.read("", "io.stat"))
	for _, size := range m.sizes {
		if usage := r.figureOf("", "hugetlb."+size+".current"); usage != nil {
			s.Hugetlb = append(s.Hugetlb, runtime.HugetlbStat{PageSize: size, Usage: usage})
		}
	}
	s.CPUPressure, s.MemoryPressure, s.IOPressure = r.pressure("cpu.pressure"), r.pressure("memory.pressure"), r.pressure("io.pressure")
}

func (m *Meter) v2Memory(r *reader, s *runtime.Stat) {
	events, to := r.read("", "memory.events"), &s.Memory
	s.OOMKills = r.figureIn(events, "oom_kill")
	to.HighEvents, to.MaxEvents = r.figureIn(events, "high"), r.figureIn(events, "max")
	to.FailCount = to.MaxEvents
	to.Usage, to.MaxUsage = r.figureOf("", "memory.current"), r.figureOf("", "memory.peak")
	s.Swap.Usage = r.figureOf("", "memory.swap.current")
	if swap, ok := r.number("", "memory.swap.max"); ok && s.Swap.Usage != nil {
		s.Swap.Available = r.figure(less(swap, *s.Swap.Usage))
	}
	if limit, ok := r.number("", "memory.max"); ok {
		to.Limit = r.figure(limit)
	}
	stat := r.read("", "memory.stat")
	to.RSS, to.Cache, to.MappedFile = r.figureIn(stat, "anon"), r.figureIn(stat, "file"), r.figureIn(stat, "file_mapped")
	to.ActiveFile, to.InactiveFile = r.figureIn(stat, "active_file"), r.figureIn(stat, "inactive_file")
	to.FileDirty, to.FileWriteback = r.figureIn(stat, "file_dirty"), r.figureIn(stat, "file_writeback")
	to.PageFaults, to.MajorPageFaults = r.figureIn(stat, "pgfault"), r.figureIn(stat, "pgmajfault")
	to.PagesScanned, to.PagesStolen = r.figureIn(stat, "pgscan"), r.figureIn(stat, "pgsteal")
	to.RefaultsFile, to.RefaultsAnon = r.figureIn(stat, "workingset_refault_file"), r.figureIn(stat, "workingset_refault_anon")
	to.Kernel = r.figureIn(stat, "kernel")
}

func (m *Meter) v2Limits(r *reader, l *runtime.LimitStat) {
	if weight, ok := r.number("", "cpu.weight"); ok && weight >= 1 && weight <= 10000 {
		l.CPUShares = r.figure(2 + (weight-1)*262142/9999)
	}
	quota, period, _ := bytes.Cut(bytes.TrimSpace(r.read("", "cpu.max")), []byte{' '})
	if v, ok := parse(quota); ok {
		l.CPUQuota = r.figure(v)
	}
	if v, ok := parse(period); ok {
		l.CPUPeriod = r.figure(v)
	}
	l.Memory, l.MemoryReservation = r.limit("", "memory.max"), r.limit("", "memory.high")
	l.Swap, l.Pids = r.limit("", "memory.swap.max"), r.limit("", "pids.max")
}
