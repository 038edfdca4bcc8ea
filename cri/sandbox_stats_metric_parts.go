package cri

import (
	"strconv"
	"time"

	"github.com/cricket-cri/cricket/runtime"
)

// processMetrics are those of containers alone.
func processMetrics() []metric {
	of := func(f func(*runtime.ProcessStat) uint64) func(*measured) []value {
		return func(m *measured) []value {
			if m.processes == nil {
				return nil
			}
			v := f(m.processes)
			return one(&v)
		}
	}
	return []metric{
		{name: "container_processes", help: "Processes.", kind: gauge, values: of(func(p *runtime.ProcessStat) uint64 { return p.Processes })},
		{name: "container_file_descriptors", help: "Open file descriptors.", kind: gauge, values: of(func(p *runtime.ProcessStat) uint64 { return p.FileDescriptors })},
		{name: "container_sockets", help: "Open sockets.", kind: gauge, values: of(func(p *runtime.ProcessStat) uint64 { return p.Sockets })},
		{name: "container_ulimits_soft", help: "Soft limit of the first process; absent if unlimited.", kind: gauge, labels: []string{"ulimit"},
			values: func(m *measured) []value {
				if m.processes == nil {
					return nil
				}
				return labelled(m.processes.MaxOpenFiles, "max_open_files")
			}},
		{name: "container_tasks_state", help: "Threads by what they do.", kind: gauge, labels: []string{"state"},
			values: func(m *measured) []value {
				p := m.processes
				if p == nil {
					return nil
				}
				return []value{
					{p.Sleeping, []string{"sleeping"}},
					{p.Running, []string{"running"}},
					{p.Stopped, []string{"stopped"}},
					{p.Uninterruptible, []string{"uninterruptible"}},
				}
			}},
	}
}

// diskMetrics are of devices that a pod used, and of the writable layers of containers.
func diskMetrics() []metric {
	device := []string{"device"}
	layer := func(f func(*runtime.DiskUsage) uint64) func(*measured) []value {
		return func(m *measured) []value {
			if m.disk == nil || m.disk.FS == nil {
				return nil
			}
			return []value{{f(m.disk), []string{m.disk.FS.Device}}}
		}
	}
	io := func(f func(*runtime.IOStat) uint64) func(*measured) []value {
		return func(m *measured) (all []value) {
			for i := range m.IO {
				all = append(all, value{f(&m.IO[i]), []string{m.IO[i].Device}})
			}
			return all
		}
	}
	return []metric{
		{name: "container_fs_usage_bytes", help: "What the writable layer occupies, in bytes.", kind: gauge, labels: device,
			values: layer(func(d *runtime.DiskUsage) uint64 { return d.Bytes })},
		{name: "container_fs_limit_bytes", help: "Size of the file system of the writable layer, in bytes.", kind: gauge, labels: device,
			values: layer(func(d *runtime.DiskUsage) uint64 { return d.FS.Bytes })},
		{name: "container_fs_inodes_total", help: "Inodes of the file system of the writable layer.", kind: gauge, labels: device,
			values: layer(func(d *runtime.DiskUsage) uint64 { return d.FS.Inodes })},
		{name: "container_fs_inodes_free", help: "Free inodes of the file system of the writable layer.", kind: gauge, labels: device,
			values: layer(func(d *runtime.DiskUsage) uint64 { return d.FS.FreeInodes })},
		{name: "container_fs_reads_bytes_total", help: "Bytes read.", kind: counter, labels: device,
			values: io(func(d *runtime.IOStat) uint64 { return d.ReadBytes })},
		{name: "container_fs_reads_total", help: "Read operations.", kind: counter, labels: device,
			values: io(func(d *runtime.IOStat) uint64 { return d.Reads })},
		{name: "container_fs_writes_bytes_total", help: "Bytes written.", kind: counter, labels: device,
			values: io(func(d *runtime.IOStat) uint64 { return d.WriteBytes })},
		{name: "container_fs_writes_total", help: "Write operations.", kind: counter, labels: device,
			values: io(func(d *runtime.IOStat) uint64 { return d.Writes })},
		{name: "container_blkio_device_usage_total", help: "Bytes by device and operation.", kind: counter,
			labels: []string{"device", "major", "minor", "operation"}, values: blkio},
	}
}

func blkio(m *measured) (all []value) {
	for _, d := range m.IO {
		major, minor := strconv.FormatUint(uint64(d.Major), 10), strconv.FormatUint(uint64(d.Minor), 10)
		for _, o := range []struct {
			name  string
			bytes uint64
		}{{"Read", d.ReadBytes}, {"Write", d.WriteBytes}, {"Discard", d.DiscardBytes}} {
			all = append(all, value{o.bytes, []string{d.Device, major, minor, o.name}})
		}
	}
	return all
}

// networkMetrics are of every interface of a pod.
func networkMetrics() []metric {
	var all []metric
	for _, n := range []struct {
		name, help string
		read       func(*runtime.NetworkStat) uint64
	}{
		{"receive_bytes", "Bytes received.", func(n *runtime.NetworkStat) uint64 { return n.RxBytes }},
		{"receive_packets", "Packets received.", func(n *runtime.NetworkStat) uint64 { return n.RxPackets }},
		{"receive_errors", "Errors while receiving.", func(n *runtime.NetworkStat) uint64 { return n.RxErrors }},
		{"receive_packets_dropped", "Packets dropped while receiving.", func(n *runtime.NetworkStat) uint64 { return n.RxDropped }},
		{"transmit_bytes", "Bytes sent.", func(n *runtime.NetworkStat) uint64 { return n.TxBytes }},
		{"transmit_packets", "Packets sent.", func(n *runtime.NetworkStat) uint64 { return n.TxPackets }},
		{"transmit_errors", "Errors while sending.", func(n *runtime.NetworkStat) uint64 { return n.TxErrors }},
		{"transmit_packets_dropped", "Packets dropped while sending.", func(n *runtime.NetworkStat) uint64 { return n.TxDropped }},
	} {
		all = append(all, metric{
			name: "container_network_" + n.name + "_total", help: n.help, kind: counter, labels: []string{"interface"},
			values: func(m *measured) (all []value) {
				for i := range m.Network {
					all = append(all, value{n.read(&m.Network[i]), []string{m.Network[i].Name}})
				}
				return all
			},
		})
	}
	return all
}

func faults(m *measured) (all []value) {
	own, ownMajor := m.Memory.OwnPageFaults, m.Memory.OwnMajorPageFaults
	if own == nil { // as cAdvisor has it on v2
		own, ownMajor = m.Memory.PageFaults, m.Memory.MajorPageFaults
	}
	for _, f := range []struct {
		v            *uint64
		class, scope string
	}{
		{own, "pgfault", "container"}, {ownMajor, "pgmajfault", "container"},
		{m.Memory.PageFaults, "pgfault", "hierarchy"}, {m.Memory.MajorPageFaults, "pgmajfault", "hierarchy"},
	} {
		all = append(all, labelled(f.v, f.class, f.scope)...)
	}
	return all
}

func (m *measured) hugetlb(read func(*runtime.HugetlbStat) *uint64) (all []value) {
	for i := range m.Hugetlb {
		all = append(all, labelled(read(&m.Hugetlb[i]), m.Hugetlb[i].PageSize)...)
	}
	return all
}

// withQuota leaves out what means nothing without a quota of processor time.
func (m *measured) withQuota(v *uint64) []value {
	if m.Limits.CPUQuota == nil {
		return nil
	}
	return one(v)
}

// one is a figure without labels of its own, or nothing.
func one(v *uint64) []value { return labelled(v) }

func labelled(v *uint64, labels ...string) []value {
	if v == nil {
		return nil
	}
	return []value{{*v, labels}}
}

// moment is a time, unless that is not known.
func moment(t time.Time) []value {
	if t.IsZero() {
		return nil
	}
	v := uint64(t.Unix())
	return one(&v)
}

// seconds turns a counter of units into whole seconds.
func seconds(v *uint64, unit time.Duration) *uint64 {
	if v == nil {
		return nil
	}
	s := *v / uint64(time.Second/unit)
	return &s
}

func pressure(p *runtime.Pressure, line func(*runtime.Pressure) runtime.PressureLine) *uint64 {
	if p == nil {
		return nil
	}
	total := line(p).Total
	return seconds(&total, time.Microsecond)
}

func some(p *runtime.Pressure) runtime.PressureLine { return p.Some }
func full(p *runtime.Pressure) runtime.PressureLine { return p.Full }
