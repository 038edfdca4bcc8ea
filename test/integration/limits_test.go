package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/test/images"
)

func TestLimits(t *testing.T) {
	n := Start(t)
	n.Pull(images.Busybox)
	n.Together(map[string]func(*testing.T, *Node){
		"update":        updateResources,
		"out of memory": outOfMemory,
		"stop signal":   stopSignal,
		"grace period":  gracePeriod,
	})
}

// cgroupFile reads a control file of a container's cgroup, by its name in version 1 (with
// its controller) or 2. That of a container in a virtual machine is seen from inside only.
func (n *Node) cgroupFile(t *testing.T, id, controller, v1, v2 string) string {
	t.Helper()
	if InVMs() {
		return strings.TrimSpace(n.Exec(id, "cat", "/sys/fs/cgroup/"+v2))
	}
	pid := n.ProcessOf(id)
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		var name string
		switch {
		case f[1] == "":
			name = filepath.Join("/sys/fs/cgroup", f[2], v2)
		case strings.Contains(","+f[1]+",", ","+controller+","):
			for _, dir := range []string{f[1], controller} {
				name = filepath.Join("/sys/fs/cgroup", dir, f[2], v1)
				if _, err := os.Stat(name); err == nil {
					break
				}
			}
		default:
			continue
		}
		if data, err := os.ReadFile(name); err == nil {
			return strings.TrimSpace(string(data))
		}
	}
	t.Fatalf("no %s or %s for process %d in\n%s", v1, v2, pid, data)
	return ""
}

func updateResources(t *testing.T, n *Node) {
	p := n.PodConfig()
	pod := n.RunPod(p)
	c := n.ContainerConfig("sleep", "3600")
	c.Linux.Resources = &cri.LinuxContainerResources{CpuShares: 512, CpuQuota: 20000, CpuPeriod: 100000, MemoryLimitInBytes: 64 << 20}
	id := n.Started(pod, p, c)
	if got := n.cgroupFile(t, id, "memory", "memory.limit_in_bytes", "memory.max"); got != strconv.Itoa(64<<20) {
		t.Errorf("the memory limit is %s", got)
	}
	for _, u := range []*cri.LinuxContainerResources{{MemoryLimitInBytes: 128 << 20}, {CpuQuota: 50000, CpuPeriod: 100000}, {CpuShares: 1024}} {
		if _, err := n.Runtime.UpdateContainerResources(t.Context(), &cri.UpdateContainerResourcesRequest{ContainerId: id, Linux: u}); err != nil {
			t.Fatalf("update to %v: %v", u, err)
		}
	}
	if got := n.cgroupFile(t, id, "memory", "memory.limit_in_bytes", "memory.max"); got != strconv.Itoa(128<<20) {
		t.Errorf("the memory limit is %s after the update", got)
	}
	if got := n.cgroupFile(t, id, "cpu", "cpu.cfs_quota_us", "cpu.max"); strings.Fields(got)[0] != "50000" {
		t.Errorf("the quota is %s after the update", got)
	}
	r := n.Status(id).GetResources().GetLinux()
	if r.GetMemoryLimitInBytes() != 128<<20 || r.GetCpuQuota() != 50000 || r.GetCpuShares() != 1024 {
		t.Errorf("the status has %v", r)
	}
	if _, err := n.Runtime.UpdatePodSandboxResources(t.Context(), &cri.UpdatePodSandboxResourcesRequest{PodSandboxId: pod,
		Resources: &cri.LinuxContainerResources{CpuShares: 2048, CpuPeriod: 100_000, CpuQuota: -5001}}); err != nil {
		t.Errorf("update the pod: %v", err)
	}
	if !partApplies(t, "cpuset") {
		return
	}
	_, err := n.Runtime.UpdateContainerResources(t.Context(), &cri.UpdateContainerResourcesRequest{ContainerId: id, Linux: &cri.LinuxContainerResources{CpusetCpus: "4000"}})
	WantCode(t, err, codes.InvalidArgument, codes.FailedPrecondition)
	if r := n.Status(id).GetResources().GetLinux(); r.GetCpusetCpus() != "" {
		t.Errorf("a refused update is in the status: %v", r)
	}
}

func outOfMemory(t *testing.T, n *Node) {
	p := n.PodConfig()
	pod := n.RunPod(p)
	c := n.ContainerConfig("sh", "-c", "exec tail /dev/zero")
	c.Linux.Resources = &cri.LinuxContainerResources{MemoryLimitInBytes: 32 << 20}
	s := n.Exited(n.Started(pod, p, c), 30*time.Second)
	if s.GetReason() != "OOMKilled" || s.GetExitCode() != 137 {
		t.Errorf("the container ended as %s, %d", s.GetReason(), s.GetExitCode())
	}
	// A child of the first process is killed, and that one tells another end.
	c = n.ContainerConfig("sh", "-c", "tail /dev/zero; exit 3")
	c.Linux.Resources = &cri.LinuxContainerResources{MemoryLimitInBytes: 32 << 20}
	if s := n.Exited(n.Started(pod, p, c), 30*time.Second); s.GetExitCode() != 3 {
		t.Errorf("the container ended as %s, %d", s.GetReason(), s.GetExitCode())
	}
	other := n.Run(pod, p, "sh", "-c", "exit 7")
	if s := n.Exited(other, settle); s.GetReason() != "Error" || s.GetExitCode() != 7 {
		t.Errorf("a failed container ended as %s, %d", s.GetReason(), s.GetExitCode())
	}
	done := n.Run(pod, p, "true")
	if s := n.Exited(done, settle); s.GetReason() != "Completed" || s.GetExitCode() != 0 {
		t.Errorf("a container ended as %s, %d", s.GetReason(), s.GetExitCode())
	}
}

func stopSignal(t *testing.T, n *Node) {
	p := n.PodConfig()
	pod := n.RunPod(p)
	c := n.ContainerConfig("sh", "-c", "trap 'exit 9' USR1; trap 'exit 1' TERM; echo ready; while :; do sleep 0.1; done")
	c.StopSignal = cri.Signal_SIGNAL_SIGUSR1
	id := n.Started(pod, p, c)
	Within(t, settle, "it is ready", func() bool { return strings.Contains(n.Log(p, c), "ready") })
	if got := n.Status(id).GetStopSignal(); got != cri.Signal_SIGNAL_SIGUSR1 {
		t.Errorf("the status has %s", got)
	}
	if _, err := n.Runtime.StopContainer(t.Context(), &cri.StopContainerRequest{ContainerId: id, Timeout: 10}); err != nil {
		t.Fatal(err)
	}
	if s := n.Status(id); s.GetExitCode() != 9 || s.GetState() != cri.ContainerState_CONTAINER_EXITED {
		t.Errorf("stopped with %d, %s", s.GetExitCode(), s.GetState())
	}
}

// gracePeriod: who does not listen is killed when the time is over, not before; a second
// stop with less time does not wait for the first.
func gracePeriod(t *testing.T, n *Node) {
	p := n.PodConfig()
	pod := n.RunPod(p)
	deaf := func() string {
		c := n.ContainerConfig("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done")
		id := n.Started(pod, p, c)
		Within(t, settle, "it is ready", func() bool { return strings.Contains(n.Log(p, c), "ready") })
		return id
	}
	stop := func(id string, grace int64) time.Duration {
		began := time.Now()
		if _, err := n.Runtime.StopContainer(t.Context(), &cri.StopContainerRequest{ContainerId: id, Timeout: grace}); err != nil {
			t.Errorf("stop: %v", err)
		}
		return time.Since(began)
	}
	id := deaf()
	if took := stop(id, 1); took < time.Second || took > 4*time.Second {
		t.Errorf("a stop with 1 s took %s", took)
	}
	if code := n.Status(id).GetExitCode(); code != 137 {
		t.Errorf("exit code %d", code)
	}
	if took := stop(deaf(), 0); took > 2*time.Second {
		t.Errorf("a stop at once took %s", took)
	}
	id = deaf()
	both := AllOf(2, func(i int) time.Duration {
		if i == 1 {
			time.Sleep(300 * time.Millisecond)
			return stop(id, 0)
		}
		return stop(id, 20)
	})
	if both[0] > 5*time.Second || both[1] > 5*time.Second {
		t.Errorf("a stop with 20 s and one at once took %v", both)
	}
}
