package cri

import (
	"testing"

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
