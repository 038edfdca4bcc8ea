package cri

import (
	"testing"

	"github.com/containerd/nri/pkg/api"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The kubelet of 1.37 takes an overhead of 50m and 128Mi from a pod without limits.
func TestOverheadOfNoLimit(t *testing.T) {
	req := &v1.LinuxContainerResources{CpuPeriod: 100_000, CpuQuota: -5001, CpuShares: 20, MemoryLimitInBytes: -1 - 128<<20}
	got, err := convertResources("r", lessOverhead(req), testFacts())
	if err != nil || got.CPUQuota != -1 || got.MemoryLimit != -1 || got.CPUShares != 20 {
		t.Errorf("got %+v, %v, want no limits", got, err)
	}
	if req.GetCpuQuota() != -5001 {
		t.Error("the request has changed")
	}
	limited := &v1.LinuxContainerResources{CpuQuota: 5000, MemoryLimitInBytes: 64 << 20}
	if got, err := convertResources("r", lessOverhead(limited), testFacts()); err != nil || got.CPUQuota != 5000 || got.MemoryLimit != 64<<20 {
		t.Errorf("got %+v, %v, want the limits", got, err)
	}
	if lessOverhead(nil) != nil {
		t.Error("nothing became something")
	}
}

// TestPodLimitsOfNow: plugins see the limits that a pod has, not those that it began with,
// also those that connect later, and to a later daemon.
func TestPodLimitsOfNow(t *testing.T) {
	m := newPluggedMachine(t)
	w := &witness{}
	m.connect(t, "10", w)
	m.known(w)
	config := podConfig("p")
	config.Linux = &v1.LinuxPodSandboxConfig{
		Resources: &v1.LinuxContainerResources{CpuShares: 512, MemoryLimitInBytes: 1 << 30},
		Overhead:  &v1.LinuxContainerResources{MemoryLimitInBytes: 1 << 20},
	}
	pod, err := m.server.RunPodSandbox(t.Context(), &v1.RunPodSandboxRequest{Config: config})
	if err != nil {
		t.Fatal(err)
	}
	check := func(when string, pod *api.PodSandbox, shares uint64, memory, overhead int64) {
		t.Helper()
		r, o := pod.GetLinux().GetPodResources(), pod.GetLinux().GetPodOverhead()
		if r.GetCpu().GetShares().GetValue() != shares || r.GetMemory().GetLimit().GetValue() != memory || o.GetMemory().GetLimit().GetValue() != overhead {
			t.Errorf("%s: limits %v, overhead %v", when, r, o)
		}
	}
	shown := func() *api.PodSandbox {
		pods, _ := view{m.server}.Snapshot()
		return pods[0]
	}
	check("at first", shown(), 512, 1<<30, 1<<20)
	for _, req := range []*v1.UpdatePodSandboxResourcesRequest{
		{Resources: &v1.LinuxContainerResources{CpuShares: 1024}},
		{Overhead: &v1.LinuxContainerResources{MemoryLimitInBytes: 2 << 20}},
	} {
		req.PodSandboxId = pod.GetPodSandboxId()
		if _, err := m.server.UpdatePodSandboxResources(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	}
	check("as the plugin is told", w.podOfNow(), 1024, 1<<30, 2<<20)
	check("after an update", shown(), 1024, 1<<30, 2<<20)
	m.restart(t)
	check("after a restart", shown(), 1024, 1<<30, 2<<20)
}
