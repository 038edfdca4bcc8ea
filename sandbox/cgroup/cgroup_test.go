package cgroup

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cricket-cri/cricket/runtime"
)

// testPath is a cgroup of this test's own, made and removed by it.
func testPath(t *testing.T, tree *Tree) string {
	t.Helper()
	path := "/cricket-test-" + strconv.Itoa(os.Getpid()) + "/a/b"
	if err := tree.Make(path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for range 2 {
			if err := tree.Remove(path); err != nil {
				t.Error(err)
			}
			tree.Prune(path)
		}
		if tree.Exists(filepath.Dir(filepath.Dir(path))) {
			t.Error("the cgroup is still there")
		}
	})
	return path
}

// join starts a command and puts it into the cgroup before it runs.
func join(t *testing.T, tree *Tree, path string, args ...string) *exec.Cmd {
	t.Helper()
	script := ""
	for _, root := range tree.roots() {
		script += "echo $$ > " + root + path + "/cgroup.procs && "
	}
	c := exec.Command("sh", append([]string{"-c", script + `exec "$@"`, "sh"}, args...)...)
	c.Stderr = os.Stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait()
	})
	return c
}

func TestStatAgainstAKnownLoad(t *testing.T) {
	tree, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	path := testPath(t, tree)
	const limit = 256 << 20
	if err := tree.Update(filepath.Dir(path), &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: ptr[int64](limit)}, Pids: &specs.LinuxPids{Limit: ptr[int64](50)},
	}); err != nil {
		t.Fatal(err)
	}
	// 64 MiB of memory and some CPU time, then quiet.
	c := join(t, tree, path, "python3", "-c",
		"import time\nb=bytearray(64<<20)\nfor i in range(0,len(b),4096): b[i]=1\n"+
			"e=time.process_time()+0.2\nwhile time.process_time()<e: pass\nprint('x',flush=True)\ntime.sleep(60)")
	_ = c
	var s runtime.Stat
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if err := tree.Stat(filepath.Dir(path), &s); err != nil {
			t.Fatal(err)
		}
		if s.CPUNanos != nil && *s.CPUNanos > 200e6 && s.Memory.RSS != nil && *s.Memory.RSS > 64<<20 {
			break
		}
	}
	within := func(what string, got *uint64, low, high uint64) {
		t.Helper()
		if got == nil || *got < low || *got > high {
			if got == nil {
				t.Errorf("%s is missing", what)
			} else {
				t.Errorf("%s is %d, want %d to %d", what, *got, low, high)
			}
		}
	}
	within("cpu", s.CPUNanos, 200e6, 5e9)
	within("rss", s.Memory.RSS, 64<<20, 100<<20)
	within("usage", s.Memory.Usage, 64<<20, 120<<20)
	within("working set", s.Memory.WorkingSet, 64<<20, *s.Memory.Usage)
	within("limit", s.Memory.Limit, limit, limit)
	within("available", s.Memory.Available, limit-120<<20, limit-64<<20)
	within("page faults", s.Memory.PageFaults, 16<<10, 1<<30)
	within("pids", s.Pids, 1, 1)
	within("oom kills", s.OOMKills, 0, 0)
}

func TestKillReachesEveryDescendant(t *testing.T) {
	tree, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	path := testPath(t, tree)
	c := join(t, tree, path, "sh", "-c", "for i in 1 2 3 4 5; do sleep 60 & done; wait")
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		pids, err := tree.Pids(filepath.Dir(path))
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("%v %v", pids, err)
		}
		if len(pids) == 6 {
			break
		}
	}
	if err := tree.Kill(filepath.Dir(path)); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err == nil {
		t.Error("the process was not killed")
	}
	for _, p := range []string{"/", "", "x", "/a/../b"} {
		if err := tree.Kill(p); !errdefs.IsInvalidArgument(err) {
			t.Errorf("kill %q: %v", p, err)
		}
	}
	if err := tree.Kill("/cricket-test-none"); err != nil {
		t.Errorf("killing a cgroup that is gone: %v", err)
	}
}

func TestStatOfNothing(t *testing.T) {
	tree, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	var s runtime.Stat
	if err := tree.Stat("/cricket-test-none", &s); !errdefs.IsNotFound(err) {
		t.Errorf("got %v", err)
	}
}

func TestUpdateRefusesWhatTheKernelRefuses(t *testing.T) {
	tree, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	path := testPath(t, tree)
	if err := tree.Update(path, &specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "4096"}}); err == nil {
		t.Error("processor 4096 was accepted")
	}
	if err := tree.Update("/cricket-test-none", &specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: ptr[uint64](100)}}); !errdefs.IsNotFound(err) {
		t.Errorf("got %v", err)
	}
	// Raising memory and swap together needs them written in the other order.
	for _, limit := range []int64{64 << 20, 128 << 20, 32 << 20} {
		if err := tree.Update(path, &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit, Swap: &limit}}); err != nil {
			t.Errorf("limit %d: %v", limit, err)
		}
	}
}

// What an OCI runtime makes in the v2 hierarchy of a hybrid node goes with the rest.
func TestRemoveReachesBeside(t *testing.T) {
	beside := t.TempDir()
	tree := newTree(map[string]string{"pids": t.TempDir()})
	tree.beside = beside
	if err := tree.Make("/pods/one"); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(beside+"/pods/one/container", 0o755); err != nil {
		t.Fatal(err)
	}
	if !tree.Exists("/pods/one") {
		t.Error("it is not there")
	}
	if err := tree.Remove("/pods/one"); err != nil {
		t.Error(err)
	}
	tree.Prune("/pods/one")
	for _, path := range []string{"/pods/one", "/pods"} {
		if tree.Exists(path) {
			t.Errorf("%s is left", path)
		}
	}
}

// A kubelet makes cgroups in the hierarchies that it uses, and removes those of pods
// only. The last pod takes away what the first one's start made, and nothing else.
func TestPruneSparesWhatOthersMade(t *testing.T) {
	theirs, ours := t.TempDir(), t.TempDir()
	tree := newTree(map[string]string{"cpu": theirs, "pids": ours})
	tree.beside = t.TempDir()
	if err := os.MkdirAll(theirs+"/pods/burst/one", 0o755); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/pods/burst/one", "/pods/burst/two"} {
		if err := tree.Make(path); err != nil {
			t.Fatal(err)
		}
	}
	tree.Prune("/pods/burst/one")
	for _, root := range []string{ours, tree.beside} {
		if _, err := os.Stat(root + "/pods/burst/two"); err != nil {
			t.Errorf("the neighbour's cgroup is gone: %v", err)
		}
	}
	tree.Prune("/pods/burst/two")
	if _, err := os.Stat(theirs + "/pods/burst/one"); err != nil {
		t.Errorf("what the other program made is gone: %v", err)
	}
	if _, err := os.Stat(theirs + "/pods/burst/two"); !os.IsNotExist(err) {
		t.Errorf("/pods/burst/two is left (%v)", err)
	}
	for _, root := range []string{ours, tree.beside} {
		if _, err := os.Stat(root + "/pods"); !os.IsNotExist(err) {
			t.Errorf("%s/pods is left (%v)", root, err)
		}
	}
}

// unifiedTree is a directory that looks like a v2 cgroup.
func unifiedTree(t *testing.T, files map[string]string) *Tree {
	t.Helper()
	root := t.TempDir()
	if err := os.Mkdir(root+"/pod", 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		if err := os.WriteFile(root+"/pod/"+name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return newTree(map[string]string{v2: root})
}

func TestStatUnified(t *testing.T) {
	tree := unifiedTree(t, map[string]string{
		"cpu.stat":            "usage_usec 1234\nuser_usec 1\nnr_periods 5\nnr_throttled 2\nthrottled_usec 7\n",
		"memory.current":      "1000\n",
		"memory.max":          "5000\n",
		"memory.peak":         "2000\n",
		"memory.stat":         "anon 300\nfile 400\nfile_mapped 50\ninactive_file 250\npgfault 9\npgmajfault 3\n",
		"memory.events":       "low 0\nmax 4\noom_kill 1\n",
		"memory.swap.current": "10\n", "memory.swap.max": "max\n",
		"pids.current": "3\n",
		"cpu.pressure": "some avg10=1.50 avg60=0.00 avg300=0.25 total=77\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=5\n",
	})
	var s runtime.Stat
	if err := tree.Stat("/pod", &s); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		got  *uint64
		want uint64
	}{
		"cpu": {s.CPUNanos, 1234000}, "throttled": {s.CPUThrottledNanos, 7000}, "working set": {s.Memory.WorkingSet, 750},
		"available": {s.Memory.Available, 4250}, "rss": {s.Memory.RSS, 300}, "cache": {s.Memory.Cache, 400},
		"oom": {s.OOMKills, 1}, "fails": {s.Memory.FailCount, 4}, "swap": {s.Swap.Usage, 10}, "pids": {s.Pids, 3},
		"faults": {s.Memory.PageFaults, 9}, "major": {s.Memory.MajorPageFaults, 3}, "peak": {s.Memory.MaxUsage, 2000},
	} {
		if c.got == nil || *c.got != c.want {
			t.Errorf("%s: got %v, want %d", what, c.got, c.want)
		}
	}
	if s.Swap.Available != nil || s.MemoryPressure != nil {
		t.Error("figures that the kernel does not give are not nil")
	}
	if s.CPUPressure == nil || s.CPUPressure.Some.Avg10 != 1.5 || s.CPUPressure.Full.Total != 5 {
		t.Errorf("pressure: %+v", s.CPUPressure)
	}
	if allocs := testing.AllocsPerRun(20, func() { _ = tree.Stat("/pod", &s) }); allocs > 50 {
		t.Errorf("%v allocations a measurement", allocs)
	}
}

func TestUpdateUnified(t *testing.T) {
	tree := unifiedTree(t, map[string]string{
		"cpu.weight": "", "cpu.max": "", "memory.max": "", "memory.swap.max": "", "pids.max": "", "memory.high": "",
	})
	err := tree.Update("/pod", &specs.LinuxResources{
		CPU:     &specs.LinuxCPU{Shares: ptr[uint64](1024), Quota: ptr[int64](50000)},
		Memory:  &specs.LinuxMemory{Limit: ptr[int64](100), Swap: ptr[int64](150)},
		Pids:    &specs.LinuxPids{Limit: ptr[int64](-1)},
		Unified: map[string]string{"memory.high": "90", "../escape": "1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"cpu.weight": "100", "cpu.max": "50000 100000", "memory.max": "100", "memory.swap.max": "50",
		"pids.max": "max", "memory.high": "90",
	} {
		if got, _ := os.ReadFile(tree.file(v2, "/pod", name)); string(got) != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	if _, err := os.Stat(tree.file(v2, "", "escape")); err == nil {
		t.Error("wrote outside of the cgroup")
	}
}

func TestUpdateUnifiedWithoutLimits(t *testing.T) {
	tree := unifiedTree(t, map[string]string{"cpu.max": "", "memory.max": "", "memory.swap.max": ""})
	err := tree.Update("/pod", &specs.LinuxResources{
		CPU:    &specs.LinuxCPU{Quota: ptr[int64](-1), Period: ptr[uint64](50000)},
		Memory: &specs.LinuxMemory{Limit: ptr[int64](-1), Swap: ptr[int64](-1)},
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"cpu.max": "max 50000", "memory.max": "max", "memory.swap.max": "max"} {
		if got, _ := os.ReadFile(tree.file(v2, "/pod", name)); string(got) != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

func ptr[T any](v T) *T { return &v }

func TestParseMounts(t *testing.T) {
	const v1 = "29 25 0:26 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n" +
		"30 25 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n" +
		"31 25 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n"
	const unified = "28 25 0:25 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw\n"
	for _, c := range []struct {
		mounts, cpu string
		isV2        bool
	}{
		{v1, "/sys/fs/cgroup/cpu,cpuacct/p/f", false},
		{unified + v1, "/sys/fs/cgroup/cpu,cpuacct/p/f", false},
		{strings.ReplaceAll(unified, "/unified", ""), "/sys/fs/cgroup/p/f", true},
	} {
		tree, err := parseMounts(strings.NewReader(c.mounts))
		if err != nil || tree.Unified() != c.isV2 || tree.file("cpuacct", "/p", "f") != c.cpu {
			t.Errorf("%q: %v %v", c.mounts, tree, err)
		}
	}
	long := "1 1 0:1 / /merged rw - overlay overlay rw,lowerdir+=" + strings.Repeat("x", 1<<17) + "\n2 1 0:2 / /cg rw - cgroup2 cgroup2 rw\n"
	if tree, err := parseMounts(strings.NewReader(long)); err != nil || !tree.Unified() {
		t.Errorf("after a long line: %v", err)
	}
	if _, err := parseMounts(strings.NewReader("1 1 0:1 / / rw - ext4 x rw\n")); err == nil {
		t.Error("no hierarchy is not an error")
	}
}

func TestNaming(t *testing.T) {
	for _, c := range []struct {
		systemd         Naming
		parent, oci, at string
	}{
		{false, "/kubepods/burstable/pod1", "/kubepods/burstable/pod1/id", "/kubepods/burstable/pod1/id"},
		{false, Naming(false).Own("s"), "/cricket/s/id", "/cricket/s/id"},
		{true, "/kubepods.slice/kubepods-pod1.slice", "kubepods-pod1.slice:cricket:id", "/kubepods.slice/kubepods-pod1.slice/cricket-id.scope"},
		{true, "a-b-c.slice", "a-b-c.slice:cricket:id", "/a.slice/a-b.slice/a-b-c.slice/cricket-id.scope"},
		{true, Naming(true).Own("s"), "cricket-s.slice:cricket:id", "/cricket.slice/cricket-s.slice/cricket-id.scope"},
		{true, "/kubepods/pod1", "", ""},
		{false, "kubepods.slice", "", ""},
		{true, "a--b.slice", "", ""},
	} {
		oci, at, err := c.systemd.Container(c.parent, "id")
		if oci != c.oci || at != c.at || (err == nil) != (c.oci != "") {
			t.Errorf("%v %q: %q %q %v", c.systemd, c.parent, oci, at, err)
		}
	}
}
