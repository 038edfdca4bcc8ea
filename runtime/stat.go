package runtime

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
)

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
	// CPUBursts are periods in which more than the quota was used, CPUBurstNanos how much
	// more.
	CPUBursts, CPUBurstNanos *uint64
	// CPUUserNanos and CPUSystemNanos are the parts of CPUNanos, in nanoseconds.
	CPUUserNanos, CPUSystemNanos *uint64
	Limits                       LimitStat
	// IO has the block devices that were read from or written to; where the kernel does
	// not write back by cgroup (v1) only direct and synchronous writes count.
	IO IOStats
	// Hugetlb has an entry for each page size that is counted.
	Hugetlb HugetlbStats
}

// LimitStat is how a cgroup is limited.
type LimitStat struct {
	// CPUShares are those of cgroup v1, 2 to 262144; from v2's weight if need be.
	CPUShares *uint64
	// CPUQuota is in microseconds a CPUPeriod; nil without one.
	CPUQuota, CPUPeriod *uint64
	// Memory, MemoryReservation and Swap are bytes, Pids tasks; 0 is no limit. Swap is
	// memory and swap together on v1, swap alone on v2. MemoryReservation is the soft
	// limit on v1, memory.high on v2.
	Memory, MemoryReservation, Swap, Pids *uint64
}

// IOStat is what was done with one block device.
type IOStat struct {
	Major, Minor uint32
	Device       string // /dev/NAME; empty if it has no name
	// Bytes and operations.
	ReadBytes, WriteBytes, DiscardBytes uint64
	Reads, Writes, Discards             uint64
}

// HugetlbStat are huge pages of one size, in bytes.
type HugetlbStat struct {
	PageSize string // as the kernel writes it: 2MB, 1GB
	Usage    *uint64
	MaxUsage *uint64 // v1 only
}

// IOStats and HugetlbStats are decoded up to a bound: a guest measures itself and is not
// trusted.
type (
	IOStats      []IOStat
	HugetlbStats []HugetlbStat
)

const (
	maxIOStats      = 256
	maxHugetlbStats = 16
)

// UnmarshalJSON refuses more than 256 devices.
func (s *IOStats) UnmarshalJSON(text []byte) (err error) {
	*s, err = decodeFew[IOStat](text, maxIOStats)
	return err
}

// UnmarshalJSON refuses more than 16 sizes.
func (s *HugetlbStats) UnmarshalJSON(text []byte) (err error) {
	*s, err = decodeFew[HugetlbStat](text, maxHugetlbStats)
	return err
}

// decodeFew decodes one entry after the other: a few bytes can make many.
func decodeFew[T any](text []byte, limit int) ([]T, error) {
	if string(text) == "null" {
		return nil, nil
	}
	d := json.NewDecoder(bytes.NewReader(text))
	if open, err := d.Token(); err != nil || open != json.Delim('[') {
		return nil, fmt.Errorf("list of figures does not begin as one: %w", errdefs.ErrInvalidArgument)
	}
	var list []T
	for d.More() {
		if len(list) == limit {
			return nil, fmt.Errorf("more than %d figures: %w", limit, errdefs.ErrInvalidArgument)
		}
		var v T
		if err := d.Decode(&v); err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	return list, nil
}

// ProcessStat holds the figures of the processes of one container. Those of a process
// that ends meanwhile may be missing.
type ProcessStat struct {
	Processes       uint64
	FileDescriptors uint64
	// Sockets are descriptors that are sockets.
	Sockets uint64
	// MaxOpenFiles is the soft limit of the first process; nil without a limit.
	MaxOpenFiles *uint64
	// Tasks by what they do. The kernel does not say here which of those that cannot be
	// interrupted wait for I/O.
	Running, Sleeping, Stopped, Uninterruptible uint64
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
	// OwnPageFaults and OwnMajorPageFaults leave out what cgroups below did; v2 does not
	// tell them apart.
	OwnPageFaults, OwnMajorPageFaults *uint64
	// Kernel is memory that the kernel uses for the cgroup's processes.
	Kernel *uint64
	// Page cache by what is about to become of it.
	ActiveFile, InactiveFile, FileDirty, FileWriteback *uint64
	// Pages that reclaim looked at, that it took, and that had to be read again. The first
	// two are v2 only.
	PagesScanned, PagesStolen, RefaultsFile, RefaultsAnon *uint64
	// HighEvents and MaxEvents count how often memory.high and memory.max were hit (v2).
	HighEvents, MaxEvents *uint64
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
	// FS is the file system that it lies on; nil if that is not known.
	FS *FSStat
}

// FSStat is a file system.
type FSStat struct {
	Device             string // /dev/NAME; empty if it has no name
	Bytes              uint64
	Inodes, FreeInodes uint64
}
