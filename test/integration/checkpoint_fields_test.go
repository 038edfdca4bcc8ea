package integration

import (
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestVirtualRestoreFields: what the configurations of a restored pod and container say, one
// finds in the kernel, inside of the machine, or in their status, though their processes ran
// before there were such configurations.
func TestVirtualRestoreFields(t *testing.T) {
	n := startVirtual(t)
	p, c := n.PodConfig(), n.ContainerConfig("tcpsvd", "-E", "0.0.0.0", "8080", "echo", "hello")
	p.Hostname = "saved"
	p.DnsConfig = &cri.DNSConfig{Servers: []string{"192.0.2.53"}}
	p.Labels, c.Labels = map[string]string{"of": "the saved pod"}, map[string]string{"of": "the saved container"}
	p.PortMappings = []*cri.PortMapping{{ContainerPort: 8080, HostPort: 18093}}
	s := &saver{Node: n, pod: n.RunPod(p)}
	s.id = n.Started(s.pod, p, c)
	dir := filepath.Join(t.TempDir(), "checkpoint")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.checkpoint(func(*cri.CheckpointPodRequest) {}, dir); err != nil {
		t.Fatalf("checkpoint: %v", err)
	}
	parent := path.Join(path.Dir(n.podCgroup(s.pod)), "of-the-kubelet")
	n.removePod(t, s.pod)

	is, of := n.PodConfig(), newContainerConfig(c)
	is.Metadata.Attempt = 3
	is.Hostname = "restored"
	is.DnsConfig = &cri.DNSConfig{Servers: []string{"192.0.2.54"}, Searches: []string{"a.example", "b.example"}, Options: []string{"ndots:5"}}
	is.Labels, is.Annotations = map[string]string{"label": "of the pod"}, map[string]string{"annotation": "of the pod"}
	is.PortMappings = []*cri.PortMapping{{ContainerPort: 8080, HostPort: 18094}, {Protocol: cri.Protocol_UDP, ContainerPort: 8080, HostPort: 18095, HostIp: "10.89.0.1"}}
	is.Linux.Resources = &cri.LinuxContainerResources{CpuPeriod: 100_000, CpuQuota: 150_000, CpuShares: 512, MemoryLimitInBytes: 900 << 20}
	is.Linux.Overhead = &cri.LinuxContainerResources{CpuPeriod: 100_000, CpuQuota: 20_000, CpuShares: 100}
	pod, id := n.restoredAs(dir, is, of)
	n.restoredStatus(pod, id, is, of)
	if got := n.Exec(id, "sh", "-c", "hostname; cat /etc/hostname /etc/resolv.conf"); got != "restored\nrestored\nsearch a.example b.example\nnameserver 192.0.2.54\noptions ndots:5\n" {
		t.Errorf("in the restored container are %q", got)
	}
	if got := answerOf(t, "10.89.0.1:18094"); got != "hello\n" {
		t.Errorf("the restored pod's port answers %q", got)
	}
	if got := groupFile(t, n.podCgroup(pod), "cpu", "cpu.cfs_quota_us", "cpu.max"); got != "170000" && got != "170000 100000" {
		t.Errorf("the restored pod's quota is %s", got)
	}
	n.restoredLimits(id)
	n.removePod(t, pod)

	in := n.PodConfig()
	in.Linux.CgroupParent = parent
	pod, _ = n.restoredAs(dir, in, newContainerConfig(c))
	if got := n.podCgroup(pod); got != parent {
		t.Errorf("the restored pod's cgroup is %s, want %s", got, parent)
	}
	if processesBelow(parent) == 0 {
		t.Errorf("no process of the restored machine is below %s", parent)
	}
	n.removePod(t, pod)
}

// newContainerConfig has all the fields that a process that runs already can be given.
func newContainerConfig(was *cri.ContainerConfig) *cri.ContainerConfig {
	c, _ := proto.Clone(was).(*cri.ContainerConfig)
	c.Metadata.Attempt = 7
	c.Labels, c.Annotations = map[string]string{"label": "of the container"}, map[string]string{"annotation": "of the container"}
	c.LogPath = "restored.log"
	c.StopSignal = cri.Signal_SIGNAL_SIGKILL
	c.Linux.Resources = &cri.LinuxContainerResources{CpuPeriod: 100_000, CpuQuota: 50_000, MemoryLimitInBytes: 800 << 20, CpuShares: 200}
	return c
}

// restoredAs restores a pod of one container and starts that.
func (n *Node) restoredAs(dir string, p *cri.PodSandboxConfig, c *cri.ContainerConfig) (pod, id string) {
	n.t.Helper()
	answer, err := n.restore(&cri.RestorePodRequest{
		CheckpointPath: dir, Config: p, RuntimeHandler: "vm", ContainerConfigs: []*cri.ContainerConfig{c},
	})
	if err != nil {
		n.t.Fatalf("restore: %v", err)
	}
	pod, id = answer.GetPodSandboxId(), answer.GetRestoredContainers()[0].GetContainerId()
	n.StartContainer(id)
	return pod, id
}

// restoredStatus wants pod and container to be shown as what was asked for.
func (n *Node) restoredStatus(pod, id string, p *cri.PodSandboxConfig, c *cri.ContainerConfig) {
	t := n.t
	t.Helper()
	r, err := n.Runtime.PodSandboxStatus(t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: pod})
	if err != nil {
		t.Fatal(err)
	}
	s := r.GetStatus()
	got := &cri.PodSandbox{Id: s.GetId(), Metadata: s.GetMetadata(), Labels: s.GetLabels(), Annotations: s.GetAnnotations(), RuntimeHandler: s.GetRuntimeHandler()}
	want := &cri.PodSandbox{Id: pod, Metadata: p.GetMetadata(), Labels: p.GetLabels(), Annotations: p.GetAnnotations(), RuntimeHandler: "vm"}
	if !proto.Equal(got, want) {
		t.Errorf("the restored pod is %v, want %v", got, want)
	}
	is := n.Status(id)
	if !proto.Equal(is.GetMetadata(), c.GetMetadata()) || is.GetLabels()["label"] != "of the container" || len(is.GetLabels()) != 1 || is.GetAnnotations()["annotation"] != "of the container" {
		t.Errorf("the restored container is %v", is)
	}
	if is.GetLogPath() != filepath.Join(p.GetLogDirectory(), c.GetLogPath()) || is.GetStopSignal() != c.GetStopSignal() {
		t.Errorf("the restored container's log is %s, its signal %s", is.GetLogPath(), is.GetStopSignal())
	}
	if r := is.GetResources().GetLinux(); r.GetMemoryLimitInBytes() != 800<<20 || r.GetCpuQuota() != 50_000 {
		t.Errorf("the restored container's limits are %v", r)
	}
}

// restoredLimits wants the limits to be in the guest's kernel, and the machine to be as large.
func (n *Node) restoredLimits(id string) {
	t := n.t
	t.Helper()
	if got := strings.TrimSpace(n.Exec(id, "cat", "/sys/fs/cgroup/memory.max")); got != strconv.Itoa(800<<20) {
		t.Errorf("the restored container's memory limit is %s", got)
	}
	if got := n.Exec(id, "cat", "/sys/fs/cgroup/cpu.max"); got != "50000 100000\n" {
		t.Errorf("the restored container's quota is %s", got)
	}
	if got := n.memTotal(id); got < 900<<20 {
		t.Errorf("the restored pod may have 900 MiB, its machine has %d", got>>20)
	}
}
