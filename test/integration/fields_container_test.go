package integration

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/test/images"
)

// TestContainerFields: what the configuration of a container says, one finds in the kernel,
// inside of it, or in its status. See test/coverage.
func TestContainerFields(t *testing.T) {
	n := Start(t)
	n.Pull(images.Busybox)
	n.Together(map[string]func(*testing.T, *Node){
		"process":       containerProcess,
		"users":         containerUsers,
		"capabilities":  containerCapabilities,
		"paths":         containerPaths,
		"devices":       containerDevices,
		"seccomp":       containerSeccomp,
		"mount options": containerMountOptions,
		"image volume":  containerImageVolume,
		"limits":        containerLimits,
		"swap":          containerSwap,
	})
}

func containerProcess(t *testing.T, n *Node) {
	id := n.Pull(images.Busybox)
	p := n.PodConfig()
	pod := n.RunPod(p)
	c := n.ContainerConfig("sh")
	c.Args = []string{"-c", "exec sleep 3601"}
	c.Metadata.Attempt = 2
	c.WorkingDir = "/tmp"
	c.Envs = []*cri.KeyValue{{Key: "GREETING", Value: []byte("hello world")}}
	c.Labels = map[string]string{"label": "of the container"}
	c.Annotations = map[string]string{"annotation": "of the container"}
	c.Image = &cri.ImageSpec{Image: images.Busybox, ImageRef: id, RuntimeHandler: n.handlers(InVMs())[0], UserSpecifiedImage: "busybox:as-written",
		Annotations: map[string]string{"annotation": "of the image"}}
	container := n.Started(pod, p, c)
	got := n.Exec(container, "sh", "-c", "tr '\\0' ' ' < /proc/1/cmdline; readlink /proc/1/cwd; tr '\\0' '\\n' < /proc/1/environ | grep GREETING")
	if got != "sleep 3601 /tmp\nGREETING=hello world\n" {
		t.Errorf("the process is %q", got)
	}
	r, err := n.Runtime.ContainerStatus(t.Context(), &cri.ContainerStatusRequest{ContainerId: container, Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	s := r.GetStatus()
	if !proto.Equal(s.GetMetadata(), c.Metadata) || s.GetLabels()["label"] != c.Labels["label"] || s.GetAnnotations()["annotation"] != c.Annotations["annotation"] {
		t.Errorf("the status has %v, %v, %v", s.GetMetadata(), s.GetLabels(), s.GetAnnotations())
	}
	if i := s.GetImage(); i.GetUserSpecifiedImage() != "busybox:as-written" || i.GetRuntimeHandler() != c.Image.RuntimeHandler || i.GetAnnotations()["annotation"] != "of the image" || s.GetImageId() != id {
		t.Errorf("the image is %v, %s", i, s.GetImageId())
	}
	image, err := n.Images.ImageStatus(t.Context(), &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: images.Busybox}})
	if err != nil || !slices.Contains(image.GetImage().GetRepoDigests(), s.GetImageRef()) {
		t.Errorf("the image's reference is %s, want one of %v, %v", s.GetImageRef(), image, err)
	}
	if want := filepath.Join(p.GetLogDirectory(), c.GetLogPath()); s.GetLogPath() != want {
		t.Errorf("the log is in %s, want %s", s.GetLogPath(), want)
	}
	of, err := n.Runtime.PodSandboxStatus(t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: pod})
	if err != nil || len(of.GetContainersStatuses()) != 1 || !proto.Equal(of.GetContainersStatuses()[0], s) {
		t.Errorf("the pod's status has %v, %v, want %v", of.GetContainersStatuses(), err, s)
	}
	if !strings.Contains(r.GetInfo()["info"], "GREETING") {
		t.Errorf("the verbose status has %v", r.GetInfo())
	}
	list, err := n.Runtime.ListContainers(t.Context(), &cri.ListContainersRequest{Filter: &cri.ContainerFilter{Id: container}})
	if err != nil || len(list.GetContainers()) != 1 || list.GetContainers()[0].GetAnnotations()["annotation"] != c.Annotations["annotation"] {
		t.Errorf("the list is %v, %v", list, err)
	}
	if a := n.stats(container).GetAttributes(); !proto.Equal(a, &cri.ContainerAttributes{Id: container, Metadata: c.Metadata, Labels: c.Labels, Annotations: c.Annotations}) {
		t.Errorf("the attributes in the figures are %v", a)
	}
}

func containerUsers(t *testing.T, n *Node) {
	const image = "gcr.io/k8s-staging-cri-tools/test-image-predefined-group:latest" // its user is 1000
	n.Pull(image)
	p := n.PodConfig()
	pod := n.RunPod(p)
	for want, sc := range map[string]*cri.LinuxContainerSecurityContext{
		"1234 2345": {RunAsUser: &cri.Int64Value{Value: 1234}, RunAsGroup: &cri.Int64Value{Value: 2345}},
		"0 0":       {RunAsUsername: "root"},
	} {
		c := n.ContainerConfig("sleep", "3600")
		c.Image.Image, c.Linux.SecurityContext = image, sc
		id := n.Started(pod, p, c)
		if got := n.Exec(id, "sh", "-c", "echo $(id -u) $(id -g)"); got != want+"\n" {
			t.Errorf("it runs as %q, want %s", got, want)
		}
		u := n.Status(id).GetUser().GetLinux()
		if got := strconv.FormatInt(u.GetUid(), 10) + " " + strconv.FormatInt(u.GetGid(), 10); got != want {
			t.Errorf("the status has %v, want %s", u, want)
		}
	}
}

func containerCapabilities(t *testing.T, n *Node) {
	const chown, netBind, netAdmin = 1 << 0, 1 << 10, 1 << 12
	p := n.PodConfig()
	pod := n.RunPod(p)
	c := n.ContainerConfig("sleep", "3600")
	c.Linux.SecurityContext = &cri.LinuxContainerSecurityContext{RunAsUser: &cri.Int64Value{Value: 1000}, Capabilities: &cri.Capability{
		AddCapabilities: []string{"NET_ADMIN"}, DropCapabilities: []string{"CHOWN"}, AddAmbientCapabilities: []string{"NET_BIND_SERVICE"},
	}}
	id := n.Started(pod, p, c)
	set := func(name string) uint64 {
		t.Helper()
		f := strings.Fields(n.Exec(id, "grep", name+":", "/proc/1/status"))
		v, err := strconv.ParseUint(f[1], 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	if b := set("CapBnd"); b&netAdmin == 0 || b&chown != 0 || b&netBind == 0 {
		t.Errorf("it may have %x", b)
	}
	if a := set("CapAmb"); a != netBind {
		t.Errorf("ambient are %x", a)
	}
	if e := set("CapEff"); e != netBind { // a user other than root has nothing else
		t.Errorf("effective are %x", e)
	}
	// All are those of the kernel that the container runs on; the host may not have all to give.
	c = n.ContainerConfig("sleep", "3600")
	c.Linux.SecurityContext = &cri.LinuxContainerSecurityContext{Capabilities: &cri.Capability{AddCapabilities: []string{"ALL"}}}
	id = n.Started(pod, p, c)
	last, err := strconv.Atoi(strings.TrimSpace(n.Exec(id, "cat", "/proc/sys/kernel/cap_last_cap")))
	if err != nil {
		t.Fatal(err)
	}
	if b, all := set("CapBnd"), uint64(1)<<(last+1)-1; InVMs() && b != all {
		t.Errorf("of %x it may have %x", all, b)
	}
}

func containerPaths(t *testing.T, n *Node) {
	p := n.PodConfig()
	pod := n.RunPod(p)
	c := n.ContainerConfig("sh", "-c", "touch /tmp/x 2>/dev/null || echo no; touch /root/x && echo yes; cat /proc/version; echo end")
	c.Linux.SecurityContext = &cri.LinuxContainerSecurityContext{MaskedPaths: []string{"/proc/version"}, ReadonlyPaths: []string{"/tmp"}}
	n.Exited(n.Started(pod, p, c), settle)
	if got, _, _ := content(t, n.Log(p, c)); got != "no\nyes\nend\n" {
		t.Errorf("it wrote %q", got)
	}
}

// containerDevices: a device of the host's can be used as its permissions say.
func containerDevices(t *testing.T, n *Node) {
	p := n.PodConfig()
	pod := n.RunPod(p)
	for permissions, want := range map[string]string{"r": "1:b\nno\n", "rw": "1:b\nyes\n"} {
		c := n.ContainerConfig("sleep", "3600")
		c.Devices = []*cri.Device{{HostPath: "/dev/kmsg", ContainerPath: "/dev/mine", Permissions: permissions}}
		id := n.Started(pod, p, c)
		if got := n.Exec(id, "sh", "-c", "stat -c %t:%T /dev/mine; (: >> /dev/mine) 2>/dev/null && echo yes || echo no"); got != want {
			t.Errorf("with %s it has %q, want %q", permissions, got, want)
		}
	}
}

func containerSeccomp(t *testing.T, n *Node) {
	profile := filepath.Join(n.Paths.Dir, "no-mkdir.json")
	const text = `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":1}]}`
	if err := os.WriteFile(profile, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	p := n.PodConfig()
	pod := n.RunPod(p)
	const look = "mkdir /root/x 2>/dev/null && echo made; grep Seccomp: /proc/self/status"
	for want, sc := range map[string]*cri.LinuxContainerSecurityContext{
		"Seccomp:\t2\n":       {Seccomp: &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Localhost, LocalhostRef: profile}},
		"made\nSeccomp:\t2\n": {SeccompProfilePath: "runtime/default"},
		"made\nSeccomp:\t0\n": {Seccomp: &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Unconfined}},
	} {
		c := n.ContainerConfig("sleep", "3600")
		c.Linux.SecurityContext = sc
		if got := n.Exec(n.Started(pod, p, c), "sh", "-c", look); got != want {
			t.Errorf("with %v it gets %q, want %q", sc, got, want)
		}
	}
}

// containerMountOptions: nothing on the volume can be executed.
func containerMountOptions(t *testing.T, n *Node) {
	volume := filepath.Join(n.Paths.Dir, "options")
	if err := os.MkdirAll(volume, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(volume, "program"), []byte("#!/bin/sh\necho ran\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	p := n.PodConfig()
	pod := n.RunPod(p)
	c := n.ContainerConfig("sleep", "3600")
	c.Mounts = []*cri.Mount{
		{HostPath: volume, ContainerPath: "/plain", SelinuxRelabel: true}, // without effect where there is no SELinux
		{HostPath: volume, ContainerPath: "/v", MountOptions: []string{"noexec", "nosuid", "nodev"}},
	}
	id := n.Started(pod, p, c)
	if got := n.Exec(id, "sh", "-c", "/plain/program; /v/program 2>/dev/null || echo no"); got != "ran\nno\n" {
		t.Errorf("it gets %q", got)
	}
	if got := n.Exec(id, "grep", " /v ", "/proc/mounts"); !strings.Contains(got, "noexec") || !strings.Contains(got, "nosuid") || !strings.Contains(got, "nodev") {
		t.Errorf("the mount is %q", got)
	}
	n.sameMounts(id, c.Mounts)
	r, err := n.Runtime.Status(t.Context(), &cri.StatusRequest{})
	if err != nil || !r.GetFeatures().GetMountOptions() {
		t.Errorf("the features are %v, %v", r.GetFeatures(), err)
	}
}

// containerImageVolume: the id of what is mounted is in the status, and a request may
// insist on one.
func containerImageVolume(t *testing.T, n *Node) {
	name := "registry.example/digest:1"
	if err := n.Registry.Add(t.TempDir(), name, n.on(images.Pause, tarOf(t, file("top", []byte("top"))))); err != nil {
		t.Fatal(err)
	}
	id := n.Pull(name)
	p := n.PodConfig()
	pod := n.RunPod(p)
	c := n.ContainerConfig("sleep", "3600")
	c.Mounts = []*cri.Mount{{ContainerPath: "/image", Readonly: true,
		Image: &cri.ImageSpec{Image: name, ImageRef: id, RuntimeHandler: n.handlers(InVMs())[0]}}}
	container := n.Started(pod, p, c)
	if got := n.Exec(container, "cat", "/image/top"); got != "top" {
		t.Errorf("the volume holds %q", got)
	}
	m := n.Status(container).GetMounts()
	if len(m) != 1 || m[0].GetImage().GetImageRef() != id {
		t.Errorf("the status has %v, the image is %s", m, id)
	}
}

// containerLimits: what the container's cgroup and process have, first and after an update.
func containerLimits(t *testing.T, n *Node) {
	p := n.PodConfig()
	pod := n.RunPod(p)
	c := n.ContainerConfig("sleep", "3600")
	c.Linux.Resources = &cri.LinuxContainerResources{
		CpuShares: 512, CpuQuota: 20_000, CpuPeriod: 50_000, MemoryLimitInBytes: 64 << 20, OomScoreAdj: 500,
		CpusetCpus: "0", CpusetMems: "0",
	}
	id := n.Started(pod, p, c)
	if got := n.Exec(id, "cat", "/proc/1/oom_score_adj"); got != "500\n" {
		t.Errorf("the OOM score is adjusted by %q", got)
	}
	check := func(quota, period, shares, weight, memory string) {
		t.Helper()
		if got := n.cgroupFile(t, id, "cpu", "cpu.cfs_quota_us", "cpu.max"); got != quota && got != quota+" "+period {
			t.Errorf("the quota is %s", got)
		}
		if got := n.cgroupFile(t, id, "cpu", "cpu.cfs_period_us", "cpu.max"); got != period && got != quota+" "+period {
			t.Errorf("the period is %s", got)
		}
		if got := n.cgroupFile(t, id, "cpu", "cpu.shares", "cpu.weight"); got != shares && got != weight {
			t.Errorf("the shares are %s", got)
		}
		if got := n.cgroupFile(t, id, "memory", "memory.limit_in_bytes", "memory.max"); got != memory {
			t.Errorf("the memory limit is %s", got)
		}
		if InVMs() {
			return
		}
		for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
			if got := n.cgroupFile(t, id, "cpuset", name, name); got != "0" {
				t.Errorf("%s is %q", name, got)
			}
		}
	}
	check("20000", "50000", "512", "20", strconv.Itoa(64<<20))
	u := &cri.LinuxContainerResources{CpuShares: 1024, CpuQuota: 30_000, CpuPeriod: 100_000, MemoryLimitInBytes: 96 << 20, CpusetCpus: "0", CpusetMems: "0"}
	if _, err := n.Runtime.UpdateContainerResources(t.Context(), &cri.UpdateContainerResourcesRequest{ContainerId: id, Linux: u}); err != nil {
		t.Fatal(err)
	}
	check("30000", "100000", "1024", "39", strconv.Itoa(96<<20))
	r := n.Status(id).GetResources().GetLinux()
	if r.GetCpuPeriod() != 100_000 || r.GetOomScoreAdj() != 500 || r.GetCpusetCpus() != u.CpusetCpus || r.GetCpusetMems() != u.CpusetMems {
		t.Errorf("the status has %v", r)
	}
}

// containerSwap: memory and swap together.
func containerSwap(t *testing.T, n *Node) {
	if _, err := os.Stat("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes"); err != nil {
		t.Skip("this kernel does not account for swap in version 1 of cgroups")
	}
	p := n.PodConfig()
	pod := n.RunPod(p)
	c := n.ContainerConfig("sleep", "3600")
	c.Linux.Resources = &cri.LinuxContainerResources{MemoryLimitInBytes: 64 << 20, MemorySwapLimitInBytes: 96 << 20}
	id := n.Started(pod, p, c)
	check := func(want int) {
		t.Helper()
		if got := n.cgroupFile(t, id, "memory", "memory.memsw.limit_in_bytes", "memory.swap.max"); got != strconv.Itoa(want) {
			t.Errorf("the swap limit is %s, want %d", got, want)
		}
		if r := n.Status(id).GetResources().GetLinux(); r.GetMemorySwapLimitInBytes() != int64(want) {
			t.Errorf("the status has %v", r)
		}
	}
	check(96 << 20)
	if s := n.stats(id).GetSwap(); s.GetTimestamp() == 0 || s.GetSwapAvailableBytes().GetValue() == 0 {
		t.Errorf("the figures of swap are %v", s)
	}
	u := &cri.LinuxContainerResources{MemorySwapLimitInBytes: 128 << 20}
	if _, err := n.Runtime.UpdateContainerResources(t.Context(), &cri.UpdateContainerResourcesRequest{ContainerId: id, Linux: u}); err != nil {
		t.Fatal(err)
	}
	check(128 << 20)
}
