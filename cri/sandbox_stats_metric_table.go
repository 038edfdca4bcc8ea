package cri

import (
	"time"

	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/runtime"
)

const counter, gauge = v1.MetricType_COUNTER, v1.MetricType_GAUGE

// metrics are those of pods and containers, under cAdvisor's names, with its types and
// labels. What is not here although cAdvisor has it, sandbox_stats_metric_test.go names,
// with the reason.
func metrics() []metric {
	var all []metric
	for _, some := range [][]metric{
		lifeMetrics(), cpuMetrics(), memoryMetrics(), reclaimMetrics(), limitMetrics(), pressureMetrics(),
		processMetrics(), diskMetrics(), networkMetrics(),
	} {
		all = append(all, some...)
	}
	return all
}

func lifeMetrics() []metric {
	return []metric{
		{name: "container_creation_time_seconds", help: "Creation time, in seconds since 1970.", kind: gauge,
			values: func(m *measured) []value { return moment(m.created) }},
		{name: "container_start_time_seconds", help: "Start time, in seconds since 1970.", kind: gauge,
			values: func(m *measured) []value { return moment(m.started) }},
		{name: "container_last_seen", help: "Time of the other figures, in seconds since 1970.", kind: gauge,
			values: func(m *measured) []value { return moment(m.At) }},
		{name: "container_oom_events_total", help: "Processes killed for want of memory.", kind: counter,
			values: func(m *measured) []value { return one(m.OOMKills) }},
	}
}

func cpuMetrics() []metric {
	return []metric{
		{name: "container_cpu_usage_seconds_total", help: "Processor time consumed, in seconds.", kind: counter, labels: []string{"cpu"},
			values: func(m *measured) []value { return labelled(seconds(m.CPUNanos, time.Nanosecond), "total") }},
		{name: "container_cpu_user_seconds_total", help: "Processor time consumed in user mode, in seconds.", kind: counter,
			values: func(m *measured) []value { return one(seconds(m.CPUUserNanos, time.Nanosecond)) }},
		{name: "container_cpu_system_seconds_total", help: "Processor time consumed in kernel mode, in seconds.", kind: counter,
			values: func(m *measured) []value { return one(seconds(m.CPUSystemNanos, time.Nanosecond)) }},
		{name: "container_cpu_cfs_periods_total", help: "Periods in which a quota of processor time was enforced; absent without a quota.", kind: counter,
			values: func(m *measured) []value { return m.withQuota(m.CPUPeriods) }},
		{name: "container_cpu_cfs_throttled_periods_total", help: "Periods in which the quota was used up; absent without a quota.", kind: counter,
			values: func(m *measured) []value { return m.withQuota(m.CPUThrottledPeriods) }},
		{name: "container_cpu_cfs_throttled_seconds_total", help: "Time for which the quota was used up, in seconds; absent without a quota.", kind: counter,
			values: func(m *measured) []value { return m.withQuota(seconds(m.CPUThrottledNanos, time.Nanosecond)) }},
		{name: "container_cpu_cfs_burst_periods_total", help: "Periods in which more than the quota was used; absent without a quota.", kind: counter,
			values: func(m *measured) []value { return m.withQuota(m.CPUBursts) }},
		{name: "container_cpu_cfs_burst_seconds_total", help: "Processor time used beyond the quota, in seconds; absent without a quota.", kind: counter,
			values: func(m *measured) []value { return m.withQuota(seconds(m.CPUBurstNanos, time.Nanosecond)) }},
	}
}

func memoryMetrics() []metric {
	return []metric{
		{name: "container_memory_usage_bytes", help: "Memory in use, page cache included, in bytes.", kind: gauge,
			values: func(m *measured) []value { return one(m.Memory.Usage) }},
		{name: "container_memory_working_set_bytes", help: "Memory in use less inactive file pages, in bytes.", kind: gauge,
			values: func(m *measured) []value { return one(m.Memory.WorkingSet) }},
		{name: "container_memory_max_usage_bytes", help: "The most memory ever in use, in bytes.", kind: gauge,
			values: func(m *measured) []value { return one(m.Memory.MaxUsage) }},
		{name: "container_memory_rss", help: "Anonymous memory in bytes.", kind: gauge,
			values: func(m *measured) []value { return one(m.Memory.RSS) }},
		{name: "container_memory_cache", help: "Page cache in bytes.", kind: gauge,
			values: func(m *measured) []value { return one(m.Memory.Cache) }},
		{name: "container_memory_mapped_file", help: "Mapped files in bytes.", kind: gauge,
			values: func(m *measured) []value { return one(m.Memory.MappedFile) }},
		{name: "container_memory_kernel_usage", help: "Memory of the kernel for these processes, in bytes.", kind: gauge,
			values: func(m *measured) []value { return one(m.Memory.Kernel) }},
		{name: "container_memory_swap", help: "Swap in use, in bytes.", kind: gauge,
			values: func(m *measured) []value { return one(m.Swap.Usage) }},
		{name: "container_memory_failcnt", help: "Times the memory limit was hit.", kind: counter,
			values: func(m *measured) []value { return one(m.Memory.FailCount) }},
		{name: "container_memory_failures_total", help: "Page faults by type; in the scope container, those of cgroups below are left out where the kernel tells them apart.",
			kind: counter, labels: []string{"failure_type", "scope"}, values: faults},
		{name: "container_memory_events_high_total", help: "Times memory.high was exceeded.", kind: counter, v2: true,
			values: func(m *measured) []value { return one(m.Memory.HighEvents) }},
		{name: "container_memory_events_max_total", help: "Times memory.max was hit.", kind: counter, v2: true,
			values: func(m *measured) []value { return one(m.Memory.MaxEvents) }},
		{name: "container_hugetlb_usage_bytes", help: "Huge pages in use, in bytes.", kind: gauge, labels: []string{"pagesize"},
			values: func(m *measured) []value { return m.hugetlb(func(h *runtime.HugetlbStat) *uint64 { return h.Usage }) }},
		{name: "container_hugetlb_max_usage_bytes", help: "The most huge pages ever in use, in bytes.", kind: gauge, labels: []string{"pagesize"},
			values: func(m *measured) []value {
				return m.hugetlb(func(h *runtime.HugetlbStat) *uint64 { return h.MaxUsage })
			}},
	}
}

func reclaimMetrics() []metric {
	return []metric{
		{name: "container_memory_total_active_file_bytes", help: "Active page cache in bytes.", kind: gauge,
			values: func(m *measured) []value { return one(m.Memory.ActiveFile) }},
		{name: "container_memory_total_inactive_file_bytes", help: "Inactive page cache in bytes.", kind: gauge,
			values: func(m *measured) []value { return one(m.Memory.InactiveFile) }},
		{name: "container_memory_file_dirty_bytes", help: "Page cache that is to be written, in bytes.", kind: gauge,
			values: func(m *measured) []value { return one(m.Memory.FileDirty) }},
		{name: "container_memory_file_writeback_bytes", help: "Page cache that is being written, in bytes.", kind: gauge,
			values: func(m *measured) []value { return one(m.Memory.FileWriteback) }},
		{name: "container_memory_pgscan_total", help: "Pages that reclaim looked at.", kind: counter, v2: true,
			values: func(m *measured) []value { return one(m.Memory.PagesScanned) }},
		{name: "container_memory_pgsteal_total", help: "Pages that reclaim took.", kind: counter, v2: true,
			values: func(m *measured) []value { return one(m.Memory.PagesStolen) }},
		{name: "container_memory_workingset_refault_file_total", help: "Pages of files that were evicted and needed again.", kind: counter,
			values: func(m *measured) []value { return one(m.Memory.RefaultsFile) }},
		{name: "container_memory_workingset_refault_anon_total", help: "Anonymous pages that were evicted and needed again.", kind: counter,
			values: func(m *measured) []value { return one(m.Memory.RefaultsAnon) }},
	}
}

func limitMetrics() []metric {
	return []metric{
		{name: "container_spec_cpu_shares", help: "Share of processor time, 2 to 262144.", kind: gauge,
			values: func(m *measured) []value { return one(m.Limits.CPUShares) }},
		{name: "container_spec_cpu_quota", help: "Processor time for each period, in microseconds; absent without a quota.", kind: gauge,
			values: func(m *measured) []value { return one(m.Limits.CPUQuota) }},
		{name: "container_spec_cpu_period", help: "Period of the quota, in microseconds.", kind: gauge,
			values: func(m *measured) []value { return one(m.Limits.CPUPeriod) }},
		{name: "container_spec_memory_limit_bytes", help: "Limit of memory in bytes; 0 is none.", kind: gauge,
			values: func(m *measured) []value { return one(m.Limits.Memory) }},
		{name: "container_spec_memory_reservation_limit_bytes", help: "Memory beyond which is reclaimed first, in bytes; 0 is none.", kind: gauge,
			values: func(m *measured) []value { return one(m.Limits.MemoryReservation) }},
		{name: "container_spec_memory_swap_limit_bytes", help: "Limit of swap in bytes (cgroup v1: of memory and swap); 0 is none.", kind: gauge,
			values: func(m *measured) []value { return one(m.Limits.Swap) }},
		{name: "container_threads_max", help: "Limit of threads; 0 is none.", kind: gauge,
			values: func(m *measured) []value { return one(m.Limits.Pids) }},
		{name: "container_threads", help: "Threads.", kind: gauge,
			values: func(m *measured) []value { return one(m.Pids) }},
	}
}

func pressureMetrics() []metric {
	var all []metric
	for _, p := range []struct {
		of, waiting, stalled string
		read                 func(*measured) *runtime.Pressure
	}{
		{"cpu", "some task waited for a processor", "no task got one", func(m *measured) *runtime.Pressure { return m.CPUPressure }},
		{"memory", "some task waited for memory", "all tasks did", func(m *measured) *runtime.Pressure { return m.MemoryPressure }},
		{"io", "some task waited for I/O", "all tasks did", func(m *measured) *runtime.Pressure { return m.IOPressure }},
	} {
		all = append(all,
			metric{name: "container_pressure_" + p.of + "_waiting_seconds_total", help: "Time for which " + p.waiting + ", in seconds.", kind: counter,
				values: func(m *measured) []value { return one(pressure(p.read(m), some)) }},
			metric{name: "container_pressure_" + p.of + "_stalled_seconds_total", help: "Time for which " + p.stalled + ", in seconds.", kind: counter,
				values: func(m *measured) []value { return one(pressure(p.read(m), full)) }})
	}
	return all
}
