package cgroupstat

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/cricket-cri/cricket/runtime"
)

// group is a cgroup on paper: the content of files by name.
type group map[string]string

func (g group) files(t *testing.T) Files {
	t.Helper()
	dir := t.TempDir()
	for name, content := range g {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return func(_, name string) string { return filepath.Join(dir, name) }
}

// flat is every figure of a stat by the names of its fields, those that are missing left
// out.
func flat(s *runtime.Stat) map[string]uint64 {
	all := map[string]uint64{}
	var walk func(prefix string, v reflect.Value)
	walk = func(prefix string, v reflect.Value) {
		for i := range v.NumField() {
			name, f := prefix+v.Type().Field(i).Name, v.Field(i)
			switch p := f.Interface().(type) {
			case *uint64:
				if p != nil {
					all[name] = *p
				}
			case runtime.MemoryStat, runtime.SwapStat, runtime.LimitStat:
				walk(name+".", f)
			}
		}
	}
	walk("", reflect.ValueOf(s).Elem())
	return all
}

func check(t *testing.T, s *runtime.Stat, want map[string]uint64) {
	t.Helper()
	got := flat(s)
	for name, v := range want {
		if g, ok := got[name]; !ok || g != v {
			t.Errorf("%s = %d (%t), want %d", name, g, ok, v)
		}
		delete(got, name)
	}
	for name, v := range got {
		t.Errorf("%s = %d out of nothing", name, v)
	}
}

func TestV2(t *testing.T) {
	g := group{
		"cpu.stat":            "usage_usec 5000000\nuser_usec 3000000\nsystem_usec 2000000\nnr_periods 3\nnr_throttled 2\nthrottled_usec 1\nnr_bursts 7\nburst_usec 8\n",
		"cpu.weight":          "100\n",
		"cpu.max":             "20000 100000\n",
		"memory.current":      "1000\n",
		"memory.peak":         "1200\n",
		"memory.max":          "4096\n",
		"memory.high":         "max\n",
		"memory.swap.current": "12\n",
		"memory.swap.max":     "100\n",
		"memory.events":       "low 0\nhigh 21\nmax 22\noom 1\noom_kill 4\n",
		"memory.stat": "anon 10\nfile 20\nkernel 30\nfile_mapped 40\nfile_dirty 50\nfile_writeback 60\ninactive_file 300\nactive_file 70\n" +
			"workingset_refault_anon 80\nworkingset_refault_file 90\npgscan 91\npgsteal 92\npgfault 93\npgmajfault 94\n",
		"pids.current":        "9\n",
		"pids.max":            "50\n",
		"io.stat":             "254:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=512 dios=3\n7:3 rbytes=1 wbytes=0 rios=1 wios=0 dbytes=0 dios=0 cost.usage=5\nrubbish\n",
		"memory.pressure":     "some avg10=1.50 avg60=0.00 avg300=0.00 total=7\nfull avg10=0.25 avg60=0.00 avg300=0.00 total=8\n",
		"hugetlb.2MB.current": "4194304\n",
	}
	m := New()
	m.sizes = []string{"2MB", "1GB"}
	var s runtime.Stat
	m.V2(g.files(t), &s)
	check(t, &s, map[string]uint64{
		"CPUNanos": 5e9, "CPUUserNanos": 3e9, "CPUSystemNanos": 2e9, "CPUPeriods": 3, "CPUThrottledPeriods": 2, "CPUThrottledNanos": 1000,
		"CPUBursts": 7, "CPUBurstNanos": 8000, "Pids": 9, "OOMKills": 4,
		"Memory.Usage": 1000, "Memory.MaxUsage": 1200, "Memory.Limit": 4096, "Memory.WorkingSet": 700, "Memory.Available": 3396,
		"Memory.RSS": 10, "Memory.Cache": 20, "Memory.Kernel": 30, "Memory.MappedFile": 40, "Memory.FileDirty": 50, "Memory.FileWriteback": 60,
		"Memory.InactiveFile": 300, "Memory.ActiveFile": 70, "Memory.RefaultsAnon": 80, "Memory.RefaultsFile": 90,
		"Memory.PagesScanned": 91, "Memory.PagesStolen": 92, "Memory.PageFaults": 93, "Memory.MajorPageFaults": 94,
		"Memory.HighEvents": 21, "Memory.MaxEvents": 22, "Memory.FailCount": 22, "Swap.Usage": 12, "Swap.Available": 88,
		"Limits.CPUShares": 2597, "Limits.CPUQuota": 20000, "Limits.CPUPeriod": 100000,
		"Limits.Memory": 4096, "Limits.MemoryReservation": 0, "Limits.Swap": 100, "Limits.Pids": 50,
	})
	for i := range s.IO {
		s.IO[i].Device = "" // of this machine
	}
	if want := (runtime.IOStats{
		{Major: 254, ReadBytes: 4096, WriteBytes: 8192, DiscardBytes: 512, Reads: 1, Writes: 2, Discards: 3}, {Major: 7, Minor: 3, ReadBytes: 1, Reads: 1},
	}); !reflect.DeepEqual(s.IO, want) {
		t.Errorf("I/O: %+v", s.IO)
	}
	if len(s.Hugetlb) != 1 || s.Hugetlb[0].PageSize != "2MB" || *s.Hugetlb[0].Usage != 4<<20 || s.Hugetlb[0].MaxUsage != nil {
		t.Errorf("huge pages: %+v", s.Hugetlb)
	}
	if s.MemoryPressure.Some.Avg10 != 1.5 || s.MemoryPressure.Full.Total != 8 || s.CPUPressure != nil {
		t.Errorf("pressure: %+v %+v", s.MemoryPressure, s.CPUPressure)
	}
}

func TestV1(t *testing.T) {
	const none = "9223372036854771712\n"
	g := group{
		"cpuacct.usage": "5000000000\n", "cpuacct.usage_user": "3000000000\n", "cpuacct.usage_sys": "2000000000\n",
		"cpu.stat":   "nr_periods 3\nnr_throttled 2\nthrottled_time 1\nnr_bursts 7\nburst_time 8\n",
		"cpu.shares": "1024\n", "cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n",
		"memory.usage_in_bytes": "1000\n", "memory.max_usage_in_bytes": "1200\n", "memory.failcnt": "22\n", "memory.kmem.usage_in_bytes": "30\n",
		"memory.limit_in_bytes": none, "memory.soft_limit_in_bytes": "2048\n",
		"memory.memsw.usage_in_bytes": "1012\n", "memory.memsw.limit_in_bytes": none,
		"memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n",
		"memory.stat": "pgfault 1\npgmajfault 2\nhierarchical_memory_limit 4096\ntotal_cache 20\ntotal_rss 10\ntotal_mapped_file 40\ntotal_dirty 50\ntotal_writeback 60\n" +
			"total_workingset_refault_anon 80\ntotal_workingset_refault_file 90\ntotal_pgfault 93\ntotal_pgmajfault 94\ntotal_inactive_file 300\ntotal_active_file 70\n",
		"pids.current": "9\n", "pids.max": "max\n",
		"blkio.throttle.io_service_bytes_recursive": "254:0 Read 4096\n254:0 Write 8192\n254:0 Sync 1\n254:0 Async 2\n254:0 Discard 512\n254:0 Total 12288\nTotal 12288\n",
		"blkio.throttle.io_serviced_recursive":      "254:0 Read 1\n254:0 Write 2\n254:0 Discard 3\nTotal 6\n",
		"hugetlb.2MB.usage_in_bytes":                "4194304\n", "hugetlb.2MB.max_usage_in_bytes": "8388608\n",
	}
	m := New()
	m.sizes = []string{"2MB"}
	var s runtime.Stat
	m.V1(g.files(t), &s)
	check(t, &s, map[string]uint64{
		"CPUNanos": 5e9, "CPUUserNanos": 3e9, "CPUSystemNanos": 2e9, "CPUPeriods": 3, "CPUThrottledPeriods": 2, "CPUThrottledNanos": 1,
		"CPUBursts": 7, "CPUBurstNanos": 8, "Pids": 9, "OOMKills": 4,
		"Memory.Usage": 1000, "Memory.MaxUsage": 1200, "Memory.Limit": 4096, "Memory.WorkingSet": 700, "Memory.Available": 3396,
		"Memory.RSS": 10, "Memory.Cache": 20, "Memory.Kernel": 30, "Memory.MappedFile": 40, "Memory.FileDirty": 50, "Memory.FileWriteback": 60,
		"Memory.InactiveFile": 300, "Memory.ActiveFile": 70, "Memory.RefaultsAnon": 80, "Memory.RefaultsFile": 90, "Memory.FailCount": 22,
		"Memory.PageFaults": 93, "Memory.MajorPageFaults": 94, "Memory.OwnPageFaults": 1, "Memory.OwnMajorPageFaults": 2, "Swap.Usage": 12,
		"Limits.CPUShares": 1024, "Limits.CPUPeriod": 100000, "Limits.Memory": 0, "Limits.MemoryReservation": 2048, "Limits.Swap": 0, "Limits.Pids": 0,
	})
	if len(s.IO) != 1 || s.IO[0].WriteBytes != 8192 || s.IO[0].Writes != 2 || s.IO[0].DiscardBytes != 512 || s.IO[0].Reads != 1 {
		t.Errorf("I/O: %+v", s.IO)
	}
	if len(s.Hugetlb) != 1 || *s.Hugetlb[0].MaxUsage != 8<<20 {
		t.Errorf("huge pages: %+v", s.Hugetlb)
	}
}

// TestNothingIsNoZero: what the kernel does not tell must not look like a measurement.
func TestNothingIsNoZero(t *testing.T) {
	for _, version := range []func(*Meter, Files, *runtime.Stat){(*Meter).V1, (*Meter).V2} {
		var s runtime.Stat
		version(New(), group{}.files(t), &s)
		check(t, &s, nil)
		if s.IO != nil || s.Hugetlb != nil || s.CPUPressure != nil {
			t.Errorf("%+v", s)
		}
	}
}

func TestPageSizes(t *testing.T) {
	for kib, want := range map[uint64]string{64: "64KB", 2048: "2MB", 32768: "32MB", 1 << 20: "1GB", 16 << 20: "16GB"} {
		if got := pageSize(kib); got != want {
			t.Errorf("%d KiB are %q, want %q", kib, got, want)
		}
	}
}

// TestManyHugePageSizes: the block that figures lie in is full before all are there.
func TestManyHugePageSizes(t *testing.T) {
	g := group{"memory.current": "1\n"}
	m := New()
	m.sizes = nil
	for i := range 2 * blockSize {
		size := strings.Repeat("x", i+1) + "MB"
		m.sizes = append(m.sizes, size)
		g["hugetlb."+size+".current"] = "7\n"
	}
	var s runtime.Stat
	m.V2(g.files(t), &s)
	if len(s.Hugetlb) != 2*blockSize || *s.Hugetlb[2*blockSize-1].Usage != 7 || *s.Memory.Usage != 1 {
		t.Errorf("%d sizes, memory %d", len(s.Hugetlb), *s.Memory.Usage)
	}
}
