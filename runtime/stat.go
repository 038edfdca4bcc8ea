package runtime

import "time"

// Stat holds the figures of one container or sandbox. Pointers are nil where the
// kernel does not give the figure.
type Stat struct {
	At time.Time
	// CPUNanos is CPU time consumed since creation, in nanoseconds.
	CPUNanos *uint64
	Memory   MemoryStat
	Swap     SwapStat
	// CPUPressure, MemoryPressure and IOPressure are PSI figures (cgroup v2 only).
	CPUPressure    *Pressure
	MemoryPressure *Pressure
	IOPressure     *Pressure
	// Pids is the number of tasks.
	Pids *uint64
	// OOMKills counts processes killed for want of memory since creation.
	OOMKills *uint64
	// Throttling of CPU bandwidth: periods, throttled periods, throttled nanoseconds.
	CPUPeriods, CPUThrottledPeriods, CPUThrottledNanos *uint64
}

// MemoryStat is memory in bytes, in the terms of the kubelet's summary API.
type MemoryStat struct {
	Usage           *uint64
	WorkingSet      *uint64 // usage less inactive file pages
	Available       *uint64 // limit less working set; nil without a limit
	RSS             *uint64
	PageFaults      *uint64
	MajorPageFaults *uint64
	Cache           *uint64
	MappedFile      *uint64
	Limit           *uint64 // nil without a limit
	MaxUsage        *uint64
	FailCount       *uint64
}

// SwapStat is swap in bytes.
type SwapStat struct {
	Usage     *uint64
	Available *uint64
}

// Pressure is one PSI file of the kernel (Documentation/accounting/psi.rst).
type Pressure struct {
	Some, Full PressureLine
}

// PressureLine is one line of a PSI file: averages in percent, Total in microseconds.
type PressureLine struct {
	Avg10, Avg60, Avg300 float64
	Total                uint64
}

// NetworkStat holds the counters of one network interface.
type NetworkStat struct {
	Name                         string
	RxBytes, RxPackets, RxErrors uint64
	RxDropped                    uint64
	TxBytes, TxPackets, TxErrors uint64
	TxDropped                    uint64
}

// DiskUsage is what a writable layer occupies.
type DiskUsage struct {
	At     time.Time
	Bytes  uint64
	Inodes uint64
}
