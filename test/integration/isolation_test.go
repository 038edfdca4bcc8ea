package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/test/images"
)

func TestIsolation(t *testing.T) {
	n := Start(t)
	n.Pull(images.Busybox)
	n.Together(map[string]func(*testing.T, *Node){
		"user namespace":              userNamespace,
		"users on the host's network": usersOnHostNetwork,
		"shared processes":            sharedProcesses,
		"target":                      target,
		"supplemental groups":         supplementalGroups,
		"sysctls":                     sysctls,
		"recursive read-only":         recursiveReadOnly,
		"mount propagation":           propagation,
		"image volumes":               imageVolumes,
		"shared memory":               sharedMemory,
		"read-only root":              readOnlyRoot,
		"names and resolution":        hostnames,
	})
}

func mapping(host uint32) []*cri.IDMapping {
	return []*cri.IDMapping{{HostId: host, ContainerId: 0, Length: 65536}}
}

// userNamespace: root inside is nobody outside, and volumes belong to the same ids on
// both sides.
func userNamespace(t *testing.T, n *Node) {
	const host = 1_000_000
	p := n.PodConfig()
	users := &cri.UserNamespace{Mode: cri.NamespaceMode_POD, Uids: mapping(host), Gids: mapping(host)}
	p.Linux.SecurityContext.NamespaceOptions.UsernsOptions = users
	pod := n.RunPod(p)
	volume := filepath.Join(n.Paths.Dir, "userns-volume")
	if err := os.MkdirAll(volume, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(volume, "theirs"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(filepath.Join(volume, "theirs"), 1234, 1234); err != nil {
		t.Fatal(err)
	}
	c := n.ContainerConfig("sleep", "3600")
	c.Linux.SecurityContext = &cri.LinuxContainerSecurityContext{NamespaceOptions: proto.Clone(p.Linux.SecurityContext.NamespaceOptions).(*cri.NamespaceOption)}
	c.Mounts = []*cri.Mount{{HostPath: volume, ContainerPath: "/v", UidMappings: mapping(host), GidMappings: mapping(host)}}
	if !partApplies(t, "volume") { // it is refused
		_, err := n.Runtime.CreateContainer(t.Context(), &cri.CreateContainerRequest{PodSandboxId: pod, Config: c, SandboxConfig: p})
		WantCode(t, err, codes.FailedPrecondition)
		c.Mounts = nil
	}
	id := n.Started(pod, p, c)
	if got := strings.Fields(n.Exec(id, "cat", "/proc/self/uid_map")); strings.Join(got, " ") != fmt.Sprintf("0 %d 65536", host) {
		t.Errorf("the map is %v", got)
	}
	if got := n.Exec(id, "sh", "-c", "touch /root/x && stat -c %u:%g /bin/sh /root/x"); got != "0:0\n0:0\n" {
		t.Errorf("the owners are %q", got)
	}
	if len(c.Mounts) > 0 {
		n.seenFromOutside(t, id, volume, host)
	}
	r, err := n.Runtime.PodSandboxStatus(t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: pod})
	if err != nil || !proto.Equal(r.GetStatus().GetLinux().GetNamespaces().GetOptions().GetUsernsOptions(), users) {
		t.Errorf("the status has %v, %v", r.GetStatus().GetLinux(), err)
	}
}

// usersOnHostNetwork: root of a pod with a user namespace and the host's network (KEP-5607)
// sees the host's interfaces and has no power over them.
func usersOnHostNetwork(t *testing.T, n *Node) {
	const host = 2_000_000
	p := n.PodConfig()
	p.Hostname = ""
	p.Linux.SecurityContext.NamespaceOptions = &cri.NamespaceOption{
		Network: cri.NamespaceMode_NODE, Pid: cri.NamespaceMode_CONTAINER,
		UsernsOptions: &cri.UserNamespace{Mode: cri.NamespaceMode_POD, Uids: mapping(host), Gids: mapping(host)},
	}
	r, err := n.Runtime.Status(t.Context(), &cri.StatusRequest{})
	if err != nil || !r.GetFeatures().GetUserNamespacesHostNetwork() {
		t.Errorf("the features are %v, %v", r.GetFeatures(), err)
	}
	if !partApplies(t, "host") { // it is refused
		_, err := n.Runtime.RunPodSandbox(t.Context(), &cri.RunPodSandboxRequest{Config: p})
		WantCode(t, err, codes.InvalidArgument)
		return
	}
	pod := n.RunPod(p)
	c := n.ContainerConfig("sleep", "3600")
	c.Linux.SecurityContext = &cri.LinuxContainerSecurityContext{
		NamespaceOptions: proto.Clone(p.Linux.SecurityContext.NamespaceOptions).(*cri.NamespaceOption),
		Capabilities:     &cri.Capability{AddCapabilities: []string{"NET_ADMIN"}},
	}
	id := n.Started(pod, p, c)
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for command, want := range map[string]string{
		"readlink /proc/self/ns/net":                          own,
		"awk '{print $1, $2, $3}' /proc/self/uid_map":         fmt.Sprintf("0 %d 65536", host),
		"ls /sys/class/net | grep -x lo":                      "lo",
		"touch /sys/kernel/x 2>&1 | grep -o 'Read-only.*'":    "Read-only file system",
		"ip link set lo mtu 1280 2>/dev/null || echo refused": "refused",
	} {
		if got := strings.TrimSpace(n.Exec(id, "sh", "-c", command)); got != want {
			t.Errorf("%s: %q, want %q", command, got, want)
		}
	}
}

// seenFromOutside compares what a container with a user namespace sees of a volume with
// what the host does, and whose the process is there.
func (n *Node) seenFromOutside(t *testing.T, id, volume string, host uint32) {
	t.Helper()
	if got := n.Exec(id, "sh", "-c", "touch /v/ours && stat -c %u:%g /v/ours /v/theirs"); got != "0:0\n1234:1234\n" {
		t.Errorf("the owners are %q", got)
	}
	if st := stat(t, filepath.Join(volume, "ours")); st.Uid != 0 {
		t.Errorf("outside, the file belongs to %d", st.Uid)
	}
	if st := stat(t, fmt.Sprintf("/proc/%d", n.ProcessOf(id))); st.Uid != host {
		t.Errorf("outside, the process belongs to %d", st.Uid)
	}
}

func stat(t *testing.T, name string) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(name, &st); err != nil {
		t.Error(err)
	}
	return st
}

// sharedProcesses: with PID POD containers see each other, whoever of them comes and goes.
func sharedProcesses(t *testing.T, n *Node) {
	p := n.PodConfig()
	p.Linux.SecurityContext.NamespaceOptions.Pid = cri.NamespaceMode_POD
	pod := n.RunPod(p)
	run := func(seconds string) string {
		c := n.ContainerConfig("sleep", seconds)
		c.Linux.SecurityContext = &cri.LinuxContainerSecurityContext{NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_POD}}
		return n.Started(pod, p, c)
	}
	first, second := run("5001"), run("5002")
	if ps := n.Exec(second, "ps"); !strings.Contains(ps, "sleep 5001") || !strings.Contains(ps, "sleep 5002") {
		t.Errorf("the processes are\n%s", ps)
	}
	if _, err := n.Runtime.StopContainer(t.Context(), &cri.StopContainerRequest{ContainerId: first}); err != nil {
		t.Fatal(err)
	}
	if ps := n.Exec(second, "ps"); strings.Contains(ps, "5001") || !strings.Contains(ps, "5002") {
		t.Errorf("after one container has ended, the processes are\n%s", ps)
	}
}

func target(t *testing.T, n *Node) {
	pod, first, p := n.Sleeper()
	c := n.ContainerConfig("sleep", "6002")
	c.Linux.SecurityContext = targetOf(first)
	second := n.Started(pod, p, c)
	if ps := n.Exec(second, "ps"); !strings.Contains(ps, "sleep 3600") || !strings.Contains(ps, "sleep 6002") {
		t.Errorf("the processes are\n%s", ps)
	}
	third := n.Run(pod, p, "sleep", "6003")
	if ps := n.Exec(third, "ps"); strings.Contains(ps, "3600") {
		t.Errorf("a container that shares nothing sees\n%s", ps)
	}
}

// supplementalGroups: Strict leaves out the groups that the image gives the user.
func supplementalGroups(t *testing.T, n *Node) {
	const image = "gcr.io/k8s-staging-cri-tools/test-image-predefined-group:latest"
	n.Pull(image)
	for policy, want := range map[cri.SupplementalGroupsPolicy]string{
		cri.SupplementalGroupsPolicy_Merge: "1000 1234 50000", cri.SupplementalGroupsPolicy_Strict: "1000 1234",
	} {
		p := n.PodConfig()
		pod := n.RunPod(p)
		c := n.ContainerConfig("sleep", "3600")
		c.Image.Image = image
		c.Linux.SecurityContext = &cri.LinuxContainerSecurityContext{SupplementalGroups: []int64{1234}, SupplementalGroupsPolicy: policy}
		id := n.Started(pod, p, c)
		if got := strings.TrimSpace(n.Exec(id, "id", "-G")); got != want {
			t.Errorf("with %s the groups are %s, want %s", policy, got, want)
		}
		var listed []string
		for _, g := range n.Status(id).GetUser().GetLinux().GetSupplementalGroups() {
			listed = append(listed, fmt.Sprint(g))
		}
		if len(listed) < strings.Count(want, " ") {
			t.Errorf("with %s the status lists %v", policy, listed)
		}
	}
}

func sysctls(t *testing.T, n *Node) {
	p := n.PodConfig()
	p.Linux.Sysctls = map[string]string{"kernel.shm_rmid_forced": "1", "net.ipv4.ip_local_port_range": "2000 3000", "net.ipv4.tcp_keepalive_time": "77"}
	pod := n.RunPod(p)
	id := n.Run(pod, p, "sleep", "3600")
	for name, want := range map[string]string{
		"kernel/shm_rmid_forced": "1", "net/ipv4/ip_local_port_range": "2000 3000", "net/ipv4/tcp_keepalive_time": "77",
		"net/ipv4/ip_unprivileged_port_start": "0", "net/ipv4/ping_group_range": "0 2147483647",
	} {
		if got := strings.Join(strings.Fields(n.Exec(id, "cat", "/proc/sys/"+name)), " "); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
}

// recursiveReadOnly: mounts below the volume are as read-only as itself.
func recursiveReadOnly(t *testing.T, n *Node) {
	volume := filepath.Join(n.Paths.Dir, "rro")
	sub := filepath.Join(volume, "sub")
	if err := os.MkdirAll(sub, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", sub, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(sub, unix.MNT_DETACH)
	p := n.PodConfig()
	pod := n.RunPod(p)
	c := n.ContainerConfig("sleep", "3600")
	c.Mounts = []*cri.Mount{
		{HostPath: volume, ContainerPath: "/ro", Readonly: true},
		{HostPath: volume, ContainerPath: "/rro", Readonly: true, RecursiveReadOnly: true},
	}
	id := n.Started(pod, p, c)
	got := n.Exec(id, "sh", "-c", "for f in /ro/x /ro/sub/x /rro/x /rro/sub/x; do touch $f 2>/dev/null && echo yes || echo no; done")
	if got != "no\nyes\nno\nno\n" {
		t.Errorf("writes are possible: %q", got)
	}
	n.sameMounts(id, c.Mounts)
}

// propagation: what is mounted on the host later reaches a container that asked for it.
func propagation(t *testing.T, n *Node) {
	volume := filepath.Join(n.Paths.Dir, "propagation")
	if err := os.MkdirAll(filepath.Join(volume, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(volume, volume, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(volume, unix.MNT_DETACH)
	if err := unix.Mount("", volume, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	p := n.PodConfig()
	pod := n.RunPod(p)
	c := n.ContainerConfig("sleep", "3600")
	c.Mounts = []*cri.Mount{
		{HostPath: volume, ContainerPath: "/private"},
		{HostPath: volume, ContainerPath: "/slave", Propagation: cri.MountPropagation_PROPAGATION_HOST_TO_CONTAINER},
	}
	id := n.Started(pod, p, c)
	sub := filepath.Join(volume, "sub")
	if err := unix.Mount("tmpfs", sub, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(sub, unix.MNT_DETACH)
	if err := os.WriteFile(filepath.Join(sub, "late"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if got := n.Exec(id, "sh", "-c", "ls /private/sub; echo; ls /slave/sub"); got != "\nlate\n" {
		t.Errorf("the container sees %q", got)
	}
	n.sameMounts(id, c.Mounts)
}

// sameMounts fails the test unless the status of a container has its mounts as they were
// requested.
func (n *Node) sameMounts(id string, want []*cri.Mount) {
	n.t.Helper()
	if got := n.Status(id).GetMounts(); !slices.EqualFunc(got, want, func(a, b *cri.Mount) bool { return proto.Equal(a, b) }) {
		n.t.Errorf("the status has %v, want %v", got, want)
	}
}

func imageVolumes(t *testing.T, n *Node) {
	const name = "registry.example/volume:1"
	layer := tarOf(t, file("top", []byte("top")), file("a/b/deep", []byte("deep")))
	if err := n.Registry.Add(t.TempDir(), name, n.on(images.Pause, layer)); err != nil {
		t.Fatal(err)
	}
	n.Pull(name)
	p := n.PodConfig()
	pod := n.RunPod(p)
	c := n.ContainerConfig("sleep", "3600")
	c.Mounts = []*cri.Mount{
		{ContainerPath: "/image", Readonly: true, Image: &cri.ImageSpec{Image: name}},
		{ContainerPath: "/sub", Readonly: true, Image: &cri.ImageSpec{Image: name}, ImageSubPath: "a/b"},
	}
	id := n.Started(pod, p, c)
	if got := n.Exec(id, "sh", "-c", "cat /image/top /image/a/b/deep /sub/deep; ls /sub; ls -d /image/pause"); got != "topdeepdeepdeep\n/image/pause\n" {
		t.Errorf("the volumes hold %q", got)
	}
	if m := n.Status(id).GetMounts(); len(m) != 2 || m[1].GetImageSubPath() != "a/b" {
		t.Errorf("the status has %v", m)
	}
	if got := n.Exec(id, "sh", "-c", "touch /image/x 2>/dev/null || touch /sub/x 2>/dev/null || echo no"); got != "no\n" {
		t.Errorf("image volumes can be written to")
	}
	c = n.ContainerConfig("sleep", "3600")
	c.Mounts = []*cri.Mount{{ContainerPath: "/image", Readonly: true, Image: &cri.ImageSpec{Image: name}, ImageSubPath: "none"}}
	r, err := n.Runtime.CreateContainer(t.Context(), &cri.CreateContainerRequest{PodSandboxId: pod, Config: c, SandboxConfig: p})
	if err == nil {
		t.Errorf("a sub-path that is not there makes container %s", r.GetContainerId())
	}
}

// sharedMemory: /dev/shm and IPC are the pod's, across restarts of containers.
func sharedMemory(t *testing.T, n *Node) {
	pod, first, p := n.Sleeper()
	n.Exec(first, "sh", "-c", "echo shared > /dev/shm/x")
	if _, err := n.Runtime.StopContainer(t.Context(), &cri.StopContainerRequest{ContainerId: first}); err != nil {
		t.Fatal(err)
	}
	if got := n.Exec(n.Run(pod, p, "sleep", "3600"), "cat", "/dev/shm/x"); got != "shared\n" {
		t.Errorf("/dev/shm holds %q", got)
	}
	_, stranger, _ := n.Sleeper()
	if got := n.Exec(stranger, "ls", "/dev/shm"); got != "" {
		t.Errorf("another pod's /dev/shm holds %q", got)
	}
}

func readOnlyRoot(t *testing.T, n *Node) {
	p := n.PodConfig()
	pod := n.RunPod(p)
	c := n.ContainerConfig("sleep", "3600")
	c.Linux.SecurityContext = &cri.LinuxContainerSecurityContext{ReadonlyRootfs: true, RunAsUser: &cri.Int64Value{Value: 1000}, NoNewPrivs: true}
	id := n.Started(pod, p, c)
	if got := n.Exec(id, "sh", "-c", "touch /tmp/x 2>/dev/null || echo no; touch /dev/shm/x && echo yes; id -u; grep NoNewPrivs /proc/self/status"); got != "no\nyes\n1000\nNoNewPrivs:\t1\n" {
		t.Errorf("got %q", got)
	}
}

func hostnames(t *testing.T, n *Node) {
	p := n.PodConfig()
	p.Hostname = "a-name"
	p.DnsConfig = &cri.DNSConfig{Servers: []string{"192.0.2.53"}, Searches: []string{"a.example", "b.example"}, Options: []string{"ndots:5"}}
	pod := n.RunPod(p)
	id := n.Run(pod, p, "sleep", "3600")
	if got := n.Exec(id, "sh", "-c", "hostname; cat /etc/hostname /etc/resolv.conf"); got != "a-name\na-name\nsearch a.example b.example\nnameserver 192.0.2.53\noptions ndots:5\n" {
		t.Errorf("got %q", got)
	}
}
