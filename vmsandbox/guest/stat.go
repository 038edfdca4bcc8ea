package guest

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/cgroupstat"
	"github.com/cricket-cri/cricket/runtime/procstat"
	"github.com/cricket-cri/cricket/vmsandbox/agent"
)

// Stat implements agent.Guest.
func (g *Guest) Stat(context.Context) (agent.Stat, error) {
	whole, err := machineStat()
	if err != nil {
		return agent.Stat{}, fmt.Errorf("read figures: %w: %w", errdefs.ErrInternal, err)
	}
	out := agent.Stat{
		Guest: whole, Pod: g.cgroupStat(cgroupRoot + agent.PodCgroup), Containers: make(map[string]runtime.Stat),
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
		s := g.cgroupStat(filepath.Join(cgroupRoot, agent.PodCgroup, e.Name()))
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
		out[slot] = runtime.DiskUsage{
			At: time.Now(), Bytes: (st.Blocks - st.Bfree) * uint64(st.Bsize), Inodes: st.Files - st.Ffree,
			FS: &runtime.FSStat{
				Device: deviceOf(target), Bytes: st.Blocks * uint64(st.Bsize), Inodes: st.Files, FreeInodes: st.Ffree,
			},
		}
	}
	return out
}

// deviceOf is the name of the device that a directory lies on.
func deviceOf(dir string) string {
	var st unix.Stat_t
	if unix.Stat(dir, &st) != nil {
		return ""
	}
	return cgroupstat.DeviceName(unix.Major(st.Dev), unix.Minor(st.Dev))
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
	s.CPUPressure, s.MemoryPressure, s.IOPressure = cgroupstat.Pressure("/proc/pressure/cpu"), cgroupstat.Pressure("/proc/pressure/memory"), cgroupstat.Pressure("/proc/pressure/io")
	var sys unix.Sysinfo_t
	if unix.Sysinfo(&sys) == nil {
		s.Pids = new(uint64(sys.Procs))
	}
	return s, nil
}

// cgroupStat reads the figures of a group. Those that cannot be read are nil.
func (g *Guest) cgroupStat(dir string) (s runtime.Stat) {
	g.meter.V2(func(_, name string) string { return dir + "/" + name }, &s)
	return s
}

// Processes implements agent.Guest.
func (g *Guest) Processes(ctx context.Context) (map[string]runtime.ProcessStat, error) {
	root := cgroupRoot + agent.PodCgroup
	groups, err := os.ReadDir(root)
	if err != nil {
		return nil, fmt.Errorf("list cgroups: %w: %w", errdefs.ErrInternal, err)
	}
	all := make(map[string]runtime.ProcessStat)
	for _, e := range groups {
		if !e.IsDir() {
			continue
		}
		pids := pidsBelow(filepath.Join(root, e.Name()))
		if len(pids) == 0 { // it is going away, or was not started
			continue
		}
		counted, err := procstat.Read(ctx, pids)
		if errdefs.IsResourceExhausted(err) { // the other containers' are told all the same
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("count processes: %w", err)
		}
		all[e.Name()] = counted
	}
	return all, nil
}

// pidsBelow lists the processes of a group and of those below it, as far as they are there.
func pidsBelow(dir string) (pids []int) {
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil //nolint:nilerr // it has gone meanwhile
		}
		content, _ := os.ReadFile(path + "/cgroup.procs") // as above
		for word := range bytes.FieldsSeq(content) {
			if pid, err := strconv.Atoi(string(word)); err == nil {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	return pids
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
