package guest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/vmsandbox/agent"
)

// Stat implements agent.Guest.
func (g *Guest) Stat(context.Context) (agent.Stat, error) {
	whole, err := machineStat()
	if err != nil {
		return agent.Stat{}, fmt.Errorf("read figures: %w: %w", errdefs.ErrInternal, err)
	}
	out := agent.Stat{
		Guest: whole, Pod: cgroupStat(cgroupRoot + agent.PodCgroup), Containers: make(map[string]runtime.Stat),
		Network: networkStat(), Disks: g.diskUsage(),
	}
	groups, err := os.ReadDir(cgroupRoot + agent.PodCgroup)
	if err != nil {
		return agent.Stat{}, fmt.Errorf("list cgroups: %w: %w", errdefs.ErrInternal, err)
	}
	for _, e := range groups {
		if !e.IsDir() {
			continue
		}
		s := cgroupStat(filepath.Join(cgroupRoot, agent.PodCgroup, e.Name()))
		if s.CPUNanos != nil { // else it is going away
			out.Containers[e.Name()] = s
		}
	}
	return out, nil
}

// diskUsage is what is on the writable disks.
func (g *Guest) diskUsage() map[string]runtime.DiskUsage {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := make(map[string]runtime.DiskUsage)
	for slot, target := range g.slots {
		var st unix.Statfs_t
		if unix.Statfs(target, &st) != nil {
			continue
		}
		out[slot] = runtime.DiskUsage{At: time.Now(), Bytes: (st.Blocks - st.Bfree) * uint64(st.Bsize), Inodes: st.Files - st.Ffree}
	}
	return out
}

// machineStat is the whole machine, kernel included: usage is what is not free.
func machineStat() (runtime.Stat, error) {
	var r reader
	info := r.read("/proc/meminfo")
	kib := func(key string) uint64 { n, _ := value(info, key); return n * 1024 }
	total := kib("MemTotal:")
	if total == 0 {
		return runtime.Stat{}, fmt.Errorf("/proc/meminfo has no MemTotal")
	}
	usage := total - min(total, kib("MemFree:"))
	s := runtime.Stat{At: time.Now()}
	s.Memory = runtime.MemoryStat{
		Usage: &usage, WorkingSet: new(usage - min(usage, kib("Inactive(file):"))), Available: new(kib("MemAvailable:")),
		RSS: new(kib("AnonPages:")), Cache: new(kib("Cached:")), MappedFile: new(kib("Mapped:")), Limit: &total,
	}
	vm := r.read("/proc/vmstat")
	s.Memory.PageFaults, s.Memory.MajorPageFaults = pointer(vm, "pgfault", 1), pointer(vm, "pgmajfault", 1)
	s.OOMKills = pointer(vm, "oom_kill", 1)
	s.CPUNanos = pointer(r.read(cgroupRoot+"/cpu.stat"), "usage_usec", 1000)
	s.CPUPressure, s.MemoryPressure, s.IOPressure = pressure(r.read("/proc/pressure/cpu")), pressure(r.read("/proc/pressure/memory")), pressure(r.read("/proc/pressure/io"))
	var sys unix.Sysinfo_t
	if unix.Sysinfo(&sys) == nil {
		s.Pids = new(uint64(sys.Procs))
	}
	return s, nil
}

// cgroupStat reads the figures of a group. Those that cannot be read are nil.
func cgroupStat(dir string) runtime.Stat {
	r := reader{dir: dir + "/"}
	s := runtime.Stat{At: time.Now()}
	cpu := r.read("cpu.stat")
	s.CPUNanos = pointer(cpu, "usage_usec", 1000)
	s.CPUPeriods, s.CPUThrottledPeriods = pointer(cpu, "nr_periods", 1), pointer(cpu, "nr_throttled", 1)
	s.CPUThrottledNanos = pointer(cpu, "throttled_usec", 1000)
	s.Memory = cgroupMemory(&r)
	events := r.read("memory.events")
	s.OOMKills, s.Memory.FailCount = pointer(events, "oom_kill", 1), pointer(events, "max", 1)
	s.Swap = runtime.SwapStat{Usage: number(r.read("memory.swap.current"))}
	s.CPUPressure, s.MemoryPressure, s.IOPressure = pressure(r.read("cpu.pressure")), pressure(r.read("memory.pressure")), pressure(r.read("io.pressure"))
	s.Pids = number(r.read("pids.current"))
	return s
}

func cgroupMemory(r *reader) runtime.MemoryStat {
	stat := r.read("memory.stat")
	m := runtime.MemoryStat{
		RSS: pointer(stat, "anon", 1), Cache: pointer(stat, "file", 1), MappedFile: pointer(stat, "file_mapped", 1),
		PageFaults: pointer(stat, "pgfault", 1), MajorPageFaults: pointer(stat, "pgmajfault", 1),
	}
	inactive, _ := value(stat, "inactive_file")
	m.Usage, m.Limit, m.MaxUsage = number(r.read("memory.current")), number(r.read("memory.max")), number(r.read("memory.peak"))
	if m.Usage == nil {
		return m
	}
	m.WorkingSet = new(*m.Usage - min(*m.Usage, inactive))
	if m.Limit != nil {
		m.Available = new(*m.Limit - min(*m.Limit, *m.WorkingSet))
	}
	return m
}

// reader reads small files of the kernel into one buffer, with three system calls each, mostly:
// under emulation what os.File does besides costs more than the files.
type reader struct {
	dir    string // a prefix of names
	buffer []byte
}

// read gives the content of a file up to the next read, or nothing if it cannot be read.
func (r *reader) read(name string) []byte {
	if r.buffer == nil {
		r.buffer = make([]byte, 8<<10) // the longest, /proc/vmstat, has less
	}
	fd, err := unix.Open(r.dir+name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	// The kernel gives a page at a time: what is much shorter is all there is.
	const page = 4096
	for n := 0; ; {
		got, err := unix.Read(fd, r.buffer[n:])
		if err != nil {
			return nil
		}
		if n += got; got < page/2 || n == len(r.buffer) {
			return r.buffer[:n]
		}
	}
}

// value finds the number after a word at the start of a line.
func value(text []byte, key string) (uint64, bool) {
	for line := range bytes.Lines(text) {
		rest, ok := bytes.CutPrefix(line, []byte(key))
		if ok && len(rest) > 0 && (rest[0] == ' ' || rest[0] == '\t') {
			rest, _, _ = bytes.Cut(bytes.TrimSpace(rest), []byte(" ")) // a unit may follow
			n, err := strconv.ParseUint(string(rest), 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}

// pointer is a value times a factor, or nil if there is none.
func pointer(text []byte, key string, factor uint64) *uint64 {
	n, ok := value(text, key)
	if !ok {
		return nil
	}
	return new(n * factor)
}

// number is the content of a file with one number; nil for "max" and for nothing.
func number(text []byte) *uint64 {
	n, err := strconv.ParseUint(string(bytes.TrimSpace(text)), 10, 64)
	if err != nil {
		return nil
	}
	return &n
}

// pressure reads the kernel's pressure stall information; nil without it.
func pressure(text []byte) *runtime.Pressure {
	if len(text) == 0 {
		return nil
	}
	var p runtime.Pressure
	for line := range bytes.Lines(text) {
		words := strings.Fields(string(line))
		if len(words) != 5 {
			continue
		}
		l := runtime.PressureLine{Avg10: average(words[1]), Avg60: average(words[2]), Avg300: average(words[3])}
		_, total, _ := strings.Cut(words[4], "=")
		l.Total, _ = strconv.ParseUint(total, 10, 64) // the kernel's own number
		switch words[0] {
		case "some":
			p.Some = l
		case "full":
			p.Full = l
		}
	}
	return &p
}

// average is the percentage in a word like avg10=0.25.
func average(word string) float64 {
	_, percent, _ := strings.Cut(word, "=")
	f, _ := strconv.ParseFloat(percent, 64) // the kernel's own number
	return f
}

// networkStat reads the counters of the interfaces, except for the loopback one.
func networkStat() []runtime.NetworkStat {
	var r reader
	return parseNetDev(string(r.read("/proc/self/net/dev")))
}

// parseNetDev reads /proc/net/dev: after the name eight figures received, eight sent.
func parseNetDev(text string) []runtime.NetworkStat {
	var out []runtime.NetworkStat
	for line := range strings.Lines(text) {
		name, figures, ok := strings.Cut(line, ":")
		name = strings.TrimSpace(name)
		words := strings.Fields(figures)
		if !ok || name == "lo" || len(words) < 16 {
			continue
		}
		var n [16]uint64
		for i := range n {
			n[i], _ = strconv.ParseUint(words[i], 10, 64) // the kernel's own numbers
		}
		out = append(out, runtime.NetworkStat{
			Name: name, RxBytes: n[0], RxPackets: n[1], RxErrors: n[2], RxDropped: n[3],
			TxBytes: n[8], TxPackets: n[9], TxErrors: n[10], TxDropped: n[11],
		})
	}
	return out
}
