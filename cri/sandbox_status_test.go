package cri

import (
	"testing"

	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A kubelet that gets a time with the status reads it in another way, and wrongly; see
// PodSandboxStatus.
func TestSandboxStatusHasNoTime(t *testing.T) {
	m := newMachine(t)
	pod := m.runPod(t, "p")
	m.startContainer(t, m.createContainer(t, pod, "c"))
	st, err := m.server.PodSandboxStatus(t.Context(), &v1.PodSandboxStatusRequest{PodSandboxId: pod})
	if err != nil || st.GetTimestamp() != 0 || len(st.GetContainersStatuses()) != 1 {
		t.Errorf("the status is %v, %v; want one container and no time", st, err)
	}
}

// The addresses of a sandbox are given back when it is stopped, and may be another's.
func TestStoppedSandboxHasNoAddress(t *testing.T) {
	m := newMachine(t)
	pod := m.runPod(t, "p")
	address := func() string {
		st, err := m.server.PodSandboxStatus(t.Context(), &v1.PodSandboxStatusRequest{PodSandboxId: pod})
		if err != nil {
			t.Fatal(err)
		}
		return st.GetStatus().GetNetwork().GetIp()
	}
	if address() == "" {
		t.Error("a running sandbox has no address")
	}
	if _, err := m.server.StopPodSandbox(t.Context(), &v1.StopPodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Fatal(err)
	}
	if got := address(); got != "" {
		t.Errorf("a stopped sandbox has the address %s", got)
	}
}
