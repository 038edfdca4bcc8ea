package cri

import (
	"time"

	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/cri/stat"
	"github.com/cricket-cri/cricket/runtime"
)

// metrics are those of pods and containers alike.
func metrics() []metric {
	const counter, gauge = v1.MetricType_COUNTER, v1.MetricType_GAUGE
	type sample = *stat.Sample
	return []metric{
		{"container_cpu_usage_seconds_total", "CPU time consumed, in seconds", counter,
			func(s sample) *uint64 { return seconds(s.CPUNanos, time.Nanosecond) }},
		{"container_cpu_cfs_periods_total", "Periods in which CPU bandwidth was enforced", counter,
			func(s sample) *uint64 { return s.CPUPeriods }},
		{"container_cpu_cfs_throttled_periods_total", "Periods in which it was throttled", counter,
			func(s sample) *uint64 { return s.CPUThrottledPeriods }},
		{"container_cpu_cfs_throttled_seconds_total", "Time for which it was throttled, in seconds", counter,
			func(s sample) *uint64 { return seconds(s.CPUThrottledNanos, time.Nanosecond) }},
		{"container_memory_usage_bytes", "Memory in use, page cache included", gauge,
			func(s sample) *uint64 { return s.Memory.Usage }},
		{"container_memory_working_set_bytes", "Memory in use less inactive file pages", gauge,
			func(s sample) *uint64 { return s.Memory.WorkingSet }},
		{"container_memory_rss", "Anonymous memory in bytes", gauge,
			func(s sample) *uint64 { return s.Memory.RSS }},
		{"container_memory_cache", "Page cache in bytes", gauge,
			func(s sample) *uint64 { return s.Memory.Cache }},
		{"container_memory_mapped_file", "Mapped files in bytes", gauge,
			func(s sample) *uint64 { return s.Memory.MappedFile }},
		{"container_memory_max_usage_bytes", "The most memory ever in use", gauge,
			func(s sample) *uint64 { return s.Memory.MaxUsage }},
		{"container_memory_failcnt", "Times the memory limit was hit", counter,
			func(s sample) *uint64 { return s.Memory.FailCount }},
		{"container_memory_swap", "Swap in use, in bytes", gauge,
			func(s sample) *uint64 { return s.Swap.Usage }},
		{"container_spec_memory_limit_bytes", "Memory limit; absent without one", gauge,
			func(s sample) *uint64 { return s.Memory.Limit }},
		{"container_oom_events_total", "Processes killed for want of memory", counter,
			func(s sample) *uint64 { return s.OOMKills }},
		{"container_threads", "Threads", gauge,
			func(s sample) *uint64 { return s.Pids }},
		{"container_last_seen", "Time of the other figures, in seconds since 1970", gauge,
			func(s sample) *uint64 { at := uint64(s.At.Unix()); return &at }},
		{"container_pressure_cpu_waiting_seconds_total", "Time for which some task waited for CPU", counter,
			func(s sample) *uint64 { return pressure(s.CPUPressure, some) }},
		{"container_pressure_cpu_stalled_seconds_total", "Time for which no task got CPU", counter,
			func(s sample) *uint64 { return pressure(s.CPUPressure, full) }},
		{"container_pressure_memory_waiting_seconds_total", "Time for which some task waited for memory", counter,
			func(s sample) *uint64 { return pressure(s.MemoryPressure, some) }},
		{"container_pressure_memory_stalled_seconds_total", "Time for which all tasks waited for memory", counter,
			func(s sample) *uint64 { return pressure(s.MemoryPressure, full) }},
		{"container_pressure_io_waiting_seconds_total", "Time for which some task waited for I/O", counter,
			func(s sample) *uint64 { return pressure(s.IOPressure, some) }},
		{"container_pressure_io_stalled_seconds_total", "Time for which all tasks waited for I/O", counter,
			func(s sample) *uint64 { return pressure(s.IOPressure, full) }},
	}
}

// networkMetrics are those of every interface of a pod.
func networkMetrics() []networkMetric {
	type iface = runtime.NetworkStat
	return []networkMetric{
		{"container_network_receive_bytes_total", "Bytes received", func(n iface) uint64 { return n.RxBytes }},
		{"container_network_receive_packets_total", "Packets received", func(n iface) uint64 { return n.RxPackets }},
		{"container_network_receive_errors_total", "Errors while receiving", func(n iface) uint64 { return n.RxErrors }},
		{"container_network_receive_packets_dropped_total", "Packets dropped while receiving", func(n iface) uint64 { return n.RxDropped }},
		{"container_network_transmit_bytes_total", "Bytes sent", func(n iface) uint64 { return n.TxBytes }},
		{"container_network_transmit_packets_total", "Packets sent", func(n iface) uint64 { return n.TxPackets }},
		{"container_network_transmit_errors_total", "Errors while sending", func(n iface) uint64 { return n.TxErrors }},
		{"container_network_transmit_packets_dropped_total", "Packets dropped while sending", func(n iface) uint64 { return n.TxDropped }},
	}
}
