package executor

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cricket-cri/cricket/runtime"
)

// controllers skips a test where cgroup v1 has the controllers. The guest has them: the
// tests run there too (inguest).
func controllers(t *testing.T, names ...string) {
	t.Helper()
	has := strings.Fields(read(filepath.Join(node.cgroup, "cgroup.controllers")))
	for _, n := range names {
		if !slices.Contains(has, n) {
			t.Skipf("cgroup v2 has not the controller %s here", n)
		}
	}
}

func TestLimitsInKernel(t *testing.T) {
	controllers(t, "memory", "cpu", "pids")
	b := newBox(t, "sleep")
	b.config.Resources = &runtime.Resources{CPUShares: 512, CPUQuota: 20000, CPUPeriod: 100000, MemoryLimit: 64 << 20, MemorySwapLimit: 64 << 20,
		PidsLimit: 50, Unified: map[string]string{"memory.high": "60000000"}}
	b.start()
	dir := filepath.Join(node.cgroup, "pod", b.id)
	expect := func(want map[string]string) {
		t.Helper()
		for file, value := range want {
			if got := read(filepath.Join(dir, file)); got != value {
				t.Errorf("%s is %q, want %q", file, got, value)
			}
		}
	}
	expect(map[string]string{"cpu.weight": "20", "cpu.max": "20000 100000", "memory.max": "67108864", "pids.max": "50", "memory.high": "59998208"})
	limit, shares := int64(128<<20), uint64(1024)
	must(t, node.client.Update(t.Context(), b.id, &specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: &shares}, Memory: &specs.LinuxMemory{Limit: &limit}}))
	expect(map[string]string{"cpu.weight": "39", "cpu.max": "20000 100000", "memory.max": "134217728", "pids.max": "50"})
	if out, _, err := b.exec(nil, "try", "cat=/sys/fs/cgroup/memory.max", "cat=/proc/self/cgroup", "write=/sys/fs/cgroup/memory.max"); err != nil ||
		!strings.HasPrefix(out, "cat=/sys/fs/cgroup/memory.max: 134217728\ncat=/proc/self/cgroup: 0::/\n") || !strings.Contains(out, "read-only") {
		t.Errorf("%s, %v", out, err)
	}
}

func TestOutOfMemory(t *testing.T) {
	controllers(t, "memory")
	b := newBox(t, "eat")
	b.config.Resources = &runtime.Resources{MemoryLimit: 32 << 20, MemorySwapLimit: 32 << 20}
	if _, exit := b.run(); !exit.OOMKilled || exit.Code != 137 {
		t.Errorf("exit %+v", exit)
	}
}

// TestExecBesideCgroupsOfTheContainer does what systemd does in its container.
func TestExecBesideCgroupsOfTheContainer(t *testing.T) {
	controllers(t, "pids")
	b := newBox(t, "sleep")
	b.start()
	b.sleeps()
	dir := filepath.Join(node.cgroup, "pod", b.id)
	must(t, os.Mkdir(filepath.Join(dir, "inner"), 0o755))
	state, err := node.client.State(t.Context(), b.id)
	must(t, err)
	pid := []byte(strings.TrimSpace(read(filepath.Join(dir, "cgroup.procs"))))
	must(t, os.WriteFile(filepath.Join(dir, "inner/cgroup.procs"), pid, 0))
	must(t, os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+pids"), 0))
	if _, exit, err := b.exec(nil, "exit", "5"); err != nil || exit.Code != 5 {
		t.Errorf("exit %+v, %v; state %+v", exit, err, state)
	}
}
