package integration

import (
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/test/images"
)

// near fails the test unless got is within 10 % of want.
func near(t *testing.T, what string, got, want float64) {
	t.Helper()
	if math.Abs(got-want) > want/10 {
		t.Errorf("%s: %.0f, want %.0f", what, got, want)
	}
}

// TestStats compares figures with loads that are known.
func TestStats(t *testing.T) {
	config := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(config, []byte("[stats]\nmax_age = \"100ms\"\ndisk_interval = \"1s\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	n := Start(t, "--config", config)
	n.Pull(images.Busybox)
	n.Together(map[string]func(*testing.T, *Node){
		"cpu": statsCPU, "memory": statsMemory, "network": statsNetwork, "disk": statsDisk,
	})
}

func (n *Node) stats(id string) *cri.ContainerStats {
	n.t.Helper()
	r, err := n.Runtime.ContainerStats(n.t.Context(), &cri.ContainerStatsRequest{ContainerId: id})
	if err != nil {
		n.t.Fatal(err)
	}
	return r.GetStats()
}

func statsCPU(t *testing.T, n *Node) {
	p := n.PodConfig()
	pod := n.RunPod(p)
	c := n.ContainerConfig("sh", "-c", "while :; do :; done")
	c.Linux.Resources = &cri.LinuxContainerResources{CpuQuota: 20000, CpuPeriod: 100000}
	id := n.Started(pod, p, c)
	time.Sleep(500 * time.Millisecond)
	a := n.stats(id).GetCpu()
	time.Sleep(5 * time.Second)
	b := n.stats(id).GetCpu()
	used := float64(b.GetUsageCoreNanoSeconds().GetValue() - a.GetUsageCoreNanoSeconds().GetValue())
	passed := float64(b.GetTimestamp() - a.GetTimestamp())
	near(t, "millionths of a core", used/passed*1e6, 200000)
	near(t, "nanocores", float64(b.GetUsageNanoCores().GetValue()), 2e8)
	if InVMs() { // the guest has cgroup v2, which knows what waits for the processor
		checkPressure(t, b.GetPsi())
	}
	s, err := n.Runtime.PodSandboxStats(t.Context(), &cri.PodSandboxStatsRequest{PodSandboxId: pod})
	if err != nil {
		t.Fatal(err)
	}
	whole, part := s.GetStats().GetLinux().GetCpu().GetUsageCoreNanoSeconds().GetValue(), b.GetUsageCoreNanoSeconds().GetValue()
	if InVMs() { // the hypervisor is in it, and the guest counts time that the host did not give it
		if whole < part/2 || whole > part+uint64(10*time.Second) {
			t.Errorf("the pod's %d nanoseconds, the container's %d", whole, part)
		}
		return
	}
	near(t, "of the pod", float64(whole), float64(part))
}

// checkPressure: a process that wants five times what it may have waits most of the time.
func checkPressure(t *testing.T, p *cri.PsiStats) {
	t.Helper()
	for name, d := range map[string]*cri.PsiData{"some": p.GetSome(), "full": p.GetFull()} {
		if d.GetTotal() < uint64(time.Second) || d.GetAvg10() < 1 || d.GetAvg60() == 0 || d.GetAvg300() == 0 {
			t.Errorf("the pressure on the processor is %s %v", name, d)
		}
	}
}

func statsMemory(t *testing.T, n *Node) {
	p := n.PodConfig()
	pod := n.RunPod(p)
	const size = 48 << 20
	c := n.ContainerConfig("sh", "-c", fmt.Sprintf("dd if=/dev/zero of=/dev/shm/x bs=1M count=%d; echo ready; exec sleep 3600", size>>20))
	c.Linux.Resources = &cri.LinuxContainerResources{MemoryLimitInBytes: 256 << 20}
	id := n.Started(pod, p, c)
	Within(t, 10*time.Second, "it is ready", func() bool { return strings.Contains(n.Log(p, c), "ready") })
	time.Sleep(200 * time.Millisecond)
	m := n.stats(id).GetMemory()
	near(t, "working set", float64(m.GetWorkingSetBytes().GetValue()), size)
	near(t, "usage", float64(m.GetUsageBytes().GetValue()), size)
	near(t, "available", float64(m.GetAvailableBytes().GetValue()), 256<<20-size)
	if m.GetPageFaults().GetValue() == 0 || m.GetRssBytes().GetValue() == 0 || m.GetTimestamp() == 0 {
		t.Errorf("the memory is %v", m)
	}
	r, err := n.Runtime.PodSandboxStats(t.Context(), &cri.PodSandboxStatsRequest{PodSandboxId: pod})
	if err != nil {
		t.Fatal(err)
	}
	s := r.GetStats().GetLinux()
	if s.GetMemory().GetUsageBytes().GetValue() < size || s.GetProcess().GetProcessCount().GetValue() == 0 || s.GetProcess().GetTimestamp() == 0 {
		t.Errorf("the pod has %v and %v", s.GetMemory(), s.GetProcess())
	}
	if len(s.GetContainers()) != 1 || s.GetContainers()[0].GetAttributes().GetId() != id {
		t.Errorf("the pod's containers are %v", s.GetContainers())
	}
}

func statsNetwork(t *testing.T, n *Node) {
	p := n.PodConfig()
	pod := n.RunPod(p)
	id := n.Run(pod, p, "tcpsvd", "-E", "0.0.0.0", "8080", "dd", "of=/dev/null", "bs=1M")
	Within(t, 5*time.Second, "the server listens", func() bool { return strings.Contains(n.Exec(id, "netstat", "-ltn"), ":8080") })
	interfaces := func() *cri.NetworkInterfaceUsage {
		t.Helper()
		r, err := n.Runtime.PodSandboxStats(t.Context(), &cri.PodSandboxStatsRequest{PodSandboxId: pod})
		if err != nil {
			t.Fatal(err)
		}
		return r.GetStats().GetLinux().GetNetwork().GetDefaultInterface()
	}
	before := interfaces()
	if before.GetName() != "eth0" {
		t.Errorf("the interface is %q", before.GetName())
	}
	st, err := n.Runtime.PodSandboxStatus(t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: pod})
	if err != nil {
		t.Fatal(err)
	}
	const size = 30 << 20
	conn, err := net.Dial("tcp", net.JoinHostPort(st.GetStatus().GetNetwork().GetIp(), "8080"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	conn.(*net.TCPConn).CloseWrite()
	io.Copy(io.Discard, conn)
	conn.Close()
	time.Sleep(200 * time.Millisecond)
	after := interfaces()
	near(t, "received bytes", float64(after.GetRxBytes().GetValue()-before.GetRxBytes().GetValue()), size)
	if after.GetTxBytes().GetValue() <= before.GetTxBytes().GetValue() { // acknowledgements, at least
		t.Errorf("it has sent %v, before %v", after.GetTxBytes(), before.GetTxBytes())
	}
}

func statsDisk(t *testing.T, n *Node) {
	p := n.PodConfig()
	pod := n.RunPod(p)
	const size = 24 << 20
	c := n.ContainerConfig("sh", "-c", fmt.Sprintf("mkdir /d; for i in 1 2 3; do dd if=/dev/urandom of=/d/$i bs=1M count=%d; done; sync /d/1 /d/2 /d/3; exec sleep 3600", size>>20/3))
	id := n.Started(pod, p, c)
	var got float64
	for deadline := time.Now().Add(8 * time.Second); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		w := n.stats(id).GetWritableLayer()
		if got = float64(w.GetUsedBytes().GetValue()); got > size*0.95 {
			if w.GetInodesUsed().GetValue() < 4 || w.GetFsId().GetMountpoint() == "" || w.GetTimestamp() == 0 {
				t.Errorf("the writable layer is %v", w)
			}
			break
		}
	}
	near(t, "writable layer", got, size)
}
