package integration

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/test/images"
)

// TestPodFields: what the configuration of a pod says, one finds in the kernel, inside of
// it, or in its status. See test/coverage.
func TestPodFields(t *testing.T) {
	n := Start(t)
	n.Pull(images.Busybox)
	n.Together(map[string]func(*testing.T, *Node){
		"identity":        podIdentity,
		"pod limits":      podLimits,
		"cgroup parent":   podCgroupParent,
		"host namespaces": podHostNamespaces,
		"volume ranges":   podVolumeRanges,
		"privileged":      podPrivileged,
		"ports":           podPorts,
	})
}

// handlers are the names of the runtime handlers of virtual machines, or of the others, without
// the empty one.
func (n *Node) handlers(virtual bool) (names []string) {
	n.t.Helper()
	r, err := n.Runtime.Status(n.t.Context(), &cri.StatusRequest{})
	if err != nil {
		n.t.Fatal(err)
	}
	for _, h := range r.GetRuntimeHandlers() {
		if h.GetName() != "" && (h.GetName() == "vm") == virtual {
			names = append(names, h.GetName())
		}
	}
	if len(names) == 0 {
		n.t.Fatalf("no handler in %v", r.GetRuntimeHandlers())
	}
	return names
}

func podIdentity(t *testing.T, n *Node) {
	p := n.PodConfig()
	p.Metadata.Attempt = 3
	p.Labels = map[string]string{"label": "of the pod"}
	p.Annotations = map[string]string{"annotation": "of the pod"}
	handler := n.handlers(InVMs())[0]
	run, err := n.Runtime.RunPodSandbox(t.Context(), &cri.RunPodSandboxRequest{Config: p, RuntimeHandler: handler})
	if err != nil {
		t.Fatal(err)
	}
	id := run.GetPodSandboxId()
	r, err := n.Runtime.PodSandboxStatus(t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: id, Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	want := &cri.PodSandbox{Id: id, Metadata: p.Metadata, Labels: p.Labels, Annotations: p.Annotations, RuntimeHandler: handler}
	s := r.GetStatus()
	got := &cri.PodSandbox{Id: s.GetId(), Metadata: s.GetMetadata(), Labels: s.GetLabels(), Annotations: s.GetAnnotations(), RuntimeHandler: s.GetRuntimeHandler()}
	if !proto.Equal(got, want) || s.GetCreatedAt() == 0 || !strings.Contains(r.GetInfo()["info"], handler) {
		t.Errorf("the status is %v, %v, want %v", r, r.GetInfo(), want)
	}
	list, err := n.Runtime.ListPodSandbox(t.Context(), &cri.ListPodSandboxRequest{Filter: &cri.PodSandboxFilter{Id: id}})
	if err != nil || len(list.GetItems()) != 1 {
		t.Fatalf("the list is %v, %v", list, err)
	}
	got = list.GetItems()[0]
	got.CreatedAt = 0
	if !proto.Equal(got, want) {
		t.Errorf("listed as %v, want %v", got, want)
	}
	st, err := n.Runtime.PodSandboxStats(t.Context(), &cri.PodSandboxStatsRequest{PodSandboxId: id})
	a := st.GetStats().GetAttributes()
	if err != nil || !proto.Equal(a, &cri.PodSandboxAttributes{Id: id, Metadata: p.Metadata, Labels: p.Labels, Annotations: p.Annotations}) {
		t.Errorf("the attributes in the figures are %v, %v", a, err)
	}
}

// podCgroup is where the pod's cgroup lies on the host.
func (n *Node) podCgroup(pod string) string {
	n.t.Helper()
	r, err := n.Runtime.PodSandboxStatus(n.t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: pod, Verbose: true})
	if err != nil {
		n.t.Fatal(err)
	}
	var info struct{ Cgroup string }
	if err := json.Unmarshal([]byte(r.GetInfo()["info"]), &info); err != nil || info.Cgroup == "" {
		n.t.Fatalf("the pod's cgroup is not known: %v, %v", r.GetInfo(), err)
	}
	return info.Cgroup
}

// groupFile reads a control file of a cgroup of the host.
func groupFile(t *testing.T, group, controller, v1, v2 string) string {
	t.Helper()
	for _, name := range []string{filepath.Join("/sys/fs/cgroup", controller, group, v1), filepath.Join("/sys/fs/cgroup", group, v2)} {
		if data, err := os.ReadFile(name); err == nil {
			return strings.TrimSpace(string(data))
		}
	}
	t.Errorf("cgroup %s has no %s and no %s", group, v1, v2)
	return ""
}

// podLimits: the pod's cgroup has the limits of the containers and of the overhead
// together, also after updates of both or one.
func podLimits(t *testing.T, n *Node) {
	limits := func(quota, shares, memory, swap int64) *cri.LinuxContainerResources {
		r := &cri.LinuxContainerResources{CpuPeriod: 100_000, CpuQuota: quota, CpuShares: shares, MemoryLimitInBytes: memory << 20, MemorySwapLimitInBytes: swap << 20}
		if !InVMs() {
			r.CpusetCpus, r.CpusetMems = "0", "0"
		}
		return r
	}
	p := n.PodConfig()
	p.Linux.Resources, p.Linux.Overhead = limits(40_000, 512, 256, 300), limits(10_000, 100, 64, 0)
	pod := n.RunPod(p)
	group := n.podCgroup(pod)
	check := func(quota, shares, memory, swap int64) {
		t.Helper()
		v2 := fmt.Sprintf("%d 100000", quota)
		if got := groupFile(t, group, "cpu", "cpu.cfs_quota_us", "cpu.max"); got != strconv.FormatInt(quota, 10) && got != v2 {
			t.Errorf("the quota is %s, want %d", got, quota)
		}
		if got := groupFile(t, group, "cpu", "cpu.cfs_period_us", "cpu.max"); got != "100000" && got != v2 {
			t.Errorf("the period is %s", got)
		}
		if got := groupFile(t, group, "cpu", "cpu.shares", "cpu.weight"); got != strconv.FormatInt(shares, 10) && got != strconv.FormatInt(1+(shares-2)*9999/262142, 10) {
			t.Errorf("the shares are %s, want %d", got, shares)
		}
		if InVMs() {
			return
		}
		if got := groupFile(t, group, "memory", "memory.limit_in_bytes", "memory.max"); got != strconv.FormatInt(memory<<20, 10) {
			t.Errorf("the memory limit is %s, want %d MiB", got, memory)
		}
		if got := groupFile(t, group, "memory", "memory.memsw.limit_in_bytes", "memory.swap.max"); got != strconv.FormatInt(swap<<20, 10) && got != strconv.FormatInt((swap-memory)<<20, 10) {
			t.Errorf("the swap limit is %s, want %d MiB", got, swap)
		}
		for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
			if got := groupFile(t, group, "cpuset", name, name); got != "0" {
				t.Errorf("%s is %q", name, got)
			}
		}
	}
	check(50_000, 612, 320, 364)
	update := func(r, overhead *cri.LinuxContainerResources) {
		t.Helper()
		_, err := n.Runtime.UpdatePodSandboxResources(t.Context(), &cri.UpdatePodSandboxResourcesRequest{PodSandboxId: pod, Resources: r, Overhead: overhead})
		if err != nil {
			t.Fatalf("update to %v, %v: %v", r, overhead, err)
		}
	}
	update(limits(60_000, 700, 512, 600), limits(20_000, 50, 32, 0))
	check(80_000, 750, 544, 632)
	update(nil, limits(10_000, 100, 64, 0))
	check(70_000, 800, 576, 664)
	update(limits(40_000, 512, 256, 300), nil)
	check(50_000, 612, 320, 364)
	if InVMs() {
		id := n.Run(pod, p, "sleep", "3600")
		was := n.memTotal(id)
		update(limits(40_000, 512, 1024, 1200), nil)
		if got := n.memTotal(id); got < was+400<<20 {
			t.Errorf("the machine had %d MiB and has %d, with 512 more for its containers", was>>20, got>>20)
		}
	}
	// One container without limits of its own gets what is the pod's, and no more.
	takes := func() int32 {
		return n.Exited(n.Started(pod, p, n.ContainerConfig("sh", "-c", "head -c 320m /dev/zero | tail > /dev/null")), time.Minute).GetExitCode()
	}
	update(limits(200_000, 512, 96, 96), nil)
	if code := takes(); code != 137 {
		t.Errorf("320 MiB in a pod of 96 end with %d", code)
	}
	update(limits(200_000, 512, 512, 512), nil)
	if code := takes(); code != 0 {
		t.Errorf("320 MiB in a pod of 512 end with %d", code)
	}
}

// memTotal is what the kernel that a container runs on has, in bytes.
func (n *Node) memTotal(id string) int {
	n.t.Helper()
	f := strings.Fields(n.Exec(id, "grep", "MemTotal:", "/proc/meminfo"))
	kib, err := strconv.Atoi(f[1])
	if err != nil {
		n.t.Fatal(err)
	}
	return kib << 10
}

// podCgroupParent: the processes of the pod, or of its machine, are below it.
func podCgroupParent(t *testing.T, n *Node) {
	p := n.PodConfig()
	parent := path.Join(path.Dir(n.podCgroup(n.RunPod(p))), "of-the-kubelet")
	p = n.PodConfig()
	p.Linux.CgroupParent = parent
	pod := n.RunPod(p)
	n.Run(pod, p, "sleep", "3600")
	if got := n.podCgroup(pod); got != parent {
		t.Errorf("the pod's cgroup is %s, want %s", got, parent)
	}
	if processesBelow(parent) == 0 {
		t.Error("no process is below it")
	}
}

// processesBelow counts those in a cgroup and below it.
func processesBelow(parent string) (processes int) {
	for _, root := range []string{"/sys/fs/cgroup/cpu", "/sys/fs/cgroup"} {
		filepath.WalkDir(filepath.Join(root, parent), func(name string, _ fs.DirEntry, err error) error {
			if data, readErr := os.ReadFile(name); err == nil && readErr == nil && path.Base(name) == "cgroup.procs" {
				processes += len(strings.Fields(string(data)))
			}
			return nil
		})
	}
	return processes
}

// same fails the test unless a container is in the node's namespace of a type.
func (n *Node) sameNamespace(t *testing.T, id, kind string, want bool) {
	t.Helper()
	ours, err := os.Readlink("/proc/self/ns/" + kind)
	if err != nil {
		t.Fatal(err)
	}
	if theirs := strings.TrimSpace(n.Exec(id, "readlink", "/proc/self/ns/"+kind)); (theirs == ours) != want {
		t.Errorf("its %s namespace is %s, the node's %s", kind, theirs, ours)
	}
}

func podHostNamespaces(t *testing.T, n *Node) {
	p := n.PodConfig()
	host := &cri.NamespaceOption{Network: cri.NamespaceMode_NODE, Pid: cri.NamespaceMode_NODE, Ipc: cri.NamespaceMode_NODE}
	p.Linux.SecurityContext.NamespaceOptions = host
	pod := n.RunPod(p)
	c := n.ContainerConfig("sleep", "3600")
	c.Linux.SecurityContext = &cri.LinuxContainerSecurityContext{NamespaceOptions: host}
	id := n.Started(pod, p, c)
	for _, kind := range []string{"net", "pid", "ipc"} {
		n.sameNamespace(t, id, kind, true)
	}
	r, err := n.Runtime.PodSandboxStatus(t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: pod})
	if err != nil || !proto.Equal(r.GetStatus().GetLinux().GetNamespaces().GetOptions(), host) {
		t.Errorf("the status has %v, %v", r.GetStatus().GetLinux(), err)
	}
}

// podVolumeRanges: a pod with a user namespace has a volume that is mapped in two ranges.
func podVolumeRanges(t *testing.T, n *Node) {
	const host = 1_200_000
	p := n.PodConfig()
	o := p.Linux.SecurityContext.NamespaceOptions
	o.UsernsOptions = &cri.UserNamespace{Mode: cri.NamespaceMode_POD, Uids: mapping(host), Gids: mapping(host)}
	pod := n.RunPod(p)
	volume := filepath.Join(n.Paths.Dir, "ranges")
	if err := os.MkdirAll(volume, 0o777); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(volume, "theirs")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(name, 1234, 1234); err != nil {
		t.Fatal(err)
	}
	ranges := []*cri.IDMapping{{HostId: host, Length: 1000}, {HostId: host + 1000, ContainerId: 1000, Length: 64536}}
	c := n.ContainerConfig("sleep", "3600")
	c.Linux.SecurityContext = &cri.LinuxContainerSecurityContext{NamespaceOptions: o}
	c.Mounts = []*cri.Mount{{HostPath: volume, ContainerPath: "/v", UidMappings: ranges, GidMappings: ranges}}
	id := n.Started(pod, p, c)
	n.sameNamespace(t, id, "user", false)
	if got := strings.Fields(n.Exec(id, "cat", "/proc/self/uid_map")); strings.Join(got, " ") != fmt.Sprintf("0 %d 65536", host) {
		t.Errorf("the map is %v", got)
	}
	if got := n.Exec(id, "stat", "-c", "%u:%g", "/v/theirs"); got != "1234:1234\n" {
		t.Errorf("the file belongs to %q", got)
	}
	n.sameMounts(id, c.Mounts)
}

// podPrivileged: with it a container may be, and is. User namespaces of mode NODE are none.
func podPrivileged(t *testing.T, n *Node) {
	p := n.PodConfig()
	p.Linux.SecurityContext.Privileged = true
	users := &cri.UserNamespace{Mode: cri.NamespaceMode_NODE}
	p.Linux.SecurityContext.NamespaceOptions.UsernsOptions = users
	pod := n.RunPod(p)
	r, err := n.Runtime.PodSandboxStatus(t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: pod})
	if o := r.GetStatus().GetLinux().GetNamespaces().GetOptions(); err != nil || !proto.Equal(o.GetUsernsOptions(), users) {
		t.Errorf("the pod's status has %v, %v", o, err)
	}
	c := n.ContainerConfig("sleep", "3600")
	c.Linux.SecurityContext = &cri.LinuxContainerSecurityContext{Privileged: true,
		NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER, UsernsOptions: users}}
	id := n.Started(pod, p, c)
	const sys = "grep ' /sys sysfs' /proc/mounts | grep -c ' rw,'; grep -c . /proc/self/uid_map; awk '{print $3}' /proc/self/uid_map"
	if got := n.Exec(id, "sh", "-c", sys); got != "1\n1\n4294967295\n" {
		t.Errorf("a privileged container sees %q", got)
	}
	plain := n.Run(pod, p, "sleep", "3600")
	if got := n.Exec(plain, "sh", "-c", "grep ' /sys sysfs' /proc/mounts | grep -c ' ro,'"); got != "1\n" {
		t.Errorf("another container of the pod sees %q", got)
	}
}

// podPorts: datagrams, and a port of one address only.
func podPorts(t *testing.T, n *Node) {
	p := n.PodConfig()
	p.PortMappings = []*cri.PortMapping{
		{Protocol: cri.Protocol_UDP, ContainerPort: 8080, HostPort: 18091},
		{ContainerPort: 8080, HostPort: 18092, HostIp: "10.89.0.1"},
	}
	pod := n.RunPod(p)
	n.Run(pod, p, "tcpsvd", "-E", "0.0.0.0", "8080", "echo", "hello")
	n.Run(pod, p, "udpsvd", "-E", "0.0.0.0", "8080", "echo", "hello")
	if got := answerOf(t, "10.89.0.1:18092"); got != "hello\n" {
		t.Errorf("the port of its address answers %q", got)
	}
	if conn, err := net.DialTimeout("tcp", "127.0.0.1:18092", time.Second); err == nil {
		conn.Close()
		t.Error("the port of one address is open on another")
	}
	Within(t, 10*time.Second, "a datagram is answered", func() bool {
		conn, err := net.Dial("udp", "10.89.0.1:18091")
		if err != nil {
			return false
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(time.Second))
		if _, err := conn.Write([]byte("x")); err != nil {
			return false
		}
		b := make([]byte, 10)
		k, _ := conn.Read(b)
		return string(b[:k]) == "hello\n"
	})
}
