package integration

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/api"
	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/hack/tools"
	"github.com/cricket-cri/cricket/test/images"
)

// TestNRI: a plugin sees pods and containers and changes containers.
func TestNRI(t *testing.T) {
	config, socket, plugins := nriConfig(t, "")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, filepath.Join(plugins, "20-launched")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(config), "launched.conf"), []byte("yes"), 0o644); err != nil {
		t.Fatal(err)
	}
	n := Start(t, "--config", config)
	n.Pull(images.Busybox)
	pod, before, p := n.Sleeper()
	if got := n.Exec(before, "sh", "-c", "echo $CONFIGURED"); got != "yes\n" {
		t.Errorf("the plugin that the daemon started changed nothing: %q", got)
	}
	plugin := &nriPlugin{}
	plugin.connect(t, n, socket)
	if found := strings.Join(plugin.found, " "); !strings.Contains(found, pod) || !strings.Contains(found, before) {
		t.Errorf("the plugin was told of %s at first", found)
	}
	t.Run("adjust", func(t *testing.T) { nriAdjusts(t, n.For(t), plugin, pod, p) })
	t.Run("update", func(t *testing.T) { nriUpdates(t, n.For(t), plugin, before) })
	t.Run("refuse", func(t *testing.T) { nriRefuses(t, n.For(t), plugin, pod, p) })
	t.Run("life", func(t *testing.T) { nriLife(t, n.For(t), plugin) })
	t.Run("restart", func(t *testing.T) {
		n := n.For(t)
		// The next daemon would start another, which is nothing that is left behind.
		if err := os.Remove(filepath.Join(plugins, "20-launched")); err != nil {
			t.Fatal(err)
		}
		n.RestartDaemon()
		again := &nriPlugin{}
		again.connect(t, n, socket)
		if found := strings.Join(again.found, " "); !strings.Contains(found, pod) || !strings.Contains(found, before) {
			t.Errorf("after a restart the plugin was told of %s", found)
		}
	})
}

// nriAdjusts: adjustments are seen from inside, and by hooks on the host.
func nriAdjusts(t *testing.T, n *Node, plugin *nriPlugin, pod string, p *cri.PodSandboxConfig) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("of the plugin"), 0o644); err != nil {
		t.Fatal(err)
	}
	plugin.created = func(c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
		a := &api.ContainerAdjustment{}
		a.AddEnv("ADDED", "by "+c.GetName())
		a.AddMount(&api.Mount{Source: dir, Destination: "/added", Type: "bind", Options: []string{"rbind", "ro"}})
		a.AddRlimit("RLIMIT_CORE", 4096, 4096)
		a.SetLinuxMemoryLimit(96 << 20)
		a.SetLinuxOomScoreAdj(ptrTo(777))
		if !InVMs() {
			a.AddDevice(&api.LinuxDevice{Path: "/dev/added", Type: "c", Major: 1, Minor: 5})
			a.AddHooks(&api.Hooks{CreateRuntime: []*api.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "cat > " + dir + "/hook"}}}})
		}
		return a, nil, nil
	}
	defer func() { plugin.created = nil }()
	c := n.ContainerConfig("sleep", "3600")
	id := n.Started(pod, p, c)
	checks := map[string]string{
		"echo $ADDED": "by " + c.GetMetadata().GetName(), "cat /added/file": "of the plugin",
		"echo x 2>&1 > /added/new || echo refused": "refused", "ulimit -c": "8", "cat /proc/1/oom_score_adj": "777",
	}
	if !InVMs() {
		checks["head -c 2 /dev/added | od -An -tx1"] = "00 00"
		if hook, err := os.ReadFile(filepath.Join(dir, "hook")); err != nil || !strings.Contains(string(hook), id) {
			t.Errorf("the hook: %q, %v", hook, err)
		}
	}
	for command, want := range checks {
		if got := n.Exec(id, "sh", "-c", command); !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", command, got, want)
		}
	}
	if got := n.cgroupFile(t, id, "memory", "memory.limit_in_bytes", "memory.max"); got != strconv.Itoa(96<<20) {
		t.Errorf("the memory limit is %s", got)
	}
	if got := n.Status(id).GetResources().GetLinux().GetMemoryLimitInBytes(); got != 96<<20 {
		t.Errorf("the status shows a memory limit of %d", got)
	}
}

func ptrTo(i int) *int { return &i }

// nriUpdates: a plugin has the last word in updates, and changes limits by itself.
func nriUpdates(t *testing.T, n *Node, plugin *nriPlugin, id string) {
	limit := func() string { return n.cgroupFile(t, id, "memory", "memory.limit_in_bytes", "memory.max") }
	update := func(bytes int64) {
		t.Helper()
		_, err := n.Runtime.UpdateContainerResources(t.Context(), &cri.UpdateContainerResourcesRequest{
			ContainerId: id, Linux: &cri.LinuxContainerResources{MemoryLimitInBytes: bytes},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	update(100 << 20)
	if got := limit(); got != strconv.Itoa(100<<20) {
		t.Errorf("an update that the plugin agrees with: %s", got)
	}
	plugin.updated = func(c *api.Container, r *api.LinuxResources) []*api.ContainerUpdate {
		u := &api.ContainerUpdate{}
		u.SetContainerId(c.GetId())
		u.SetLinuxMemoryLimit(2 * r.GetMemory().GetLimit().GetValue())
		return []*api.ContainerUpdate{u}
	}
	update(60 << 20)
	plugin.updated = nil
	if got := limit(); got != strconv.Itoa(120<<20) {
		t.Errorf("an update that the plugin doubles: %s", got)
	}
	unasked := &api.ContainerUpdate{}
	unasked.SetContainerId(id)
	unasked.SetLinuxMemoryLimit(80 << 20)
	if failed, err := plugin.stub.UpdateContainers([]*api.ContainerUpdate{unasked}); err != nil || len(failed) > 0 {
		t.Errorf("an update that nobody asked for: %v, %v", failed, err)
	}
	if got, shown := limit(), n.Status(id).GetResources().GetLinux().GetMemoryLimitInBytes(); got != strconv.Itoa(80<<20) || shown != 80<<20 {
		t.Errorf("after an update that nobody asked for: %s, the status shows %d", got, shown)
	}
	plugin.inOrder(t, id, "update", "updated", "update", "updated")
}

// nriRefuses: what a plugin refuses does not happen, and nothing is left of it.
func nriRefuses(t *testing.T, n *Node, plugin *nriPlugin, pod string, p *cri.PodSandboxConfig) {
	no := errors.New("not on this node")
	var refused string
	create := func() error {
		_, err := n.Runtime.CreateContainer(t.Context(), &cri.CreateContainerRequest{PodSandboxId: pod, Config: n.ContainerConfig("true"), SandboxConfig: p})
		return err
	}
	plugin.created = func(c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) { return nil, nil, no }
	err := create()
	WantCode(t, err, codes.FailedPrecondition)
	if !strings.Contains(fmt.Sprint(err), no.Error()) {
		t.Errorf("the error does not say why: %v", err)
	}
	// What a plugin wants and cannot have.
	plugin.created = func(c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
		refused = c.GetId()
		a := &api.ContainerAdjustment{}
		a.SetLinuxCgroupsPath("/elsewhere")
		return a, nil, nil
	}
	err = create()
	plugin.created = nil
	WantCode(t, err, codes.InvalidArgument)
	if !strings.Contains(fmt.Sprint(err), "linux.cgroupsPath") {
		t.Errorf("the error does not name the field: %v", err)
	}
	plugin.inOrder(t, refused, "create", "stop", "remove")

	plugin.starts = func(*api.Container) error { return no }
	id := n.Create(pod, p, n.ContainerConfig("true"))
	_, err = n.Runtime.StartContainer(t.Context(), &cri.StartContainerRequest{ContainerId: id})
	plugin.starts = nil
	WantCode(t, err, codes.FailedPrecondition)
	if s := n.Status(id); s.GetState() != cri.ContainerState_CONTAINER_EXITED || s.GetReason() != "StartError" {
		t.Errorf("a container that was not to start is %s (%s)", s.GetState(), s.GetReason())
	}
	plugin.runs = func(*api.PodSandbox) error { return no }
	_, err = n.Runtime.RunPodSandbox(t.Context(), &cri.RunPodSandboxRequest{Config: n.PodConfig()})
	plugin.runs = nil
	WantCode(t, err, codes.FailedPrecondition)
}

// nriLife: each thing is told once, and in order.
func nriLife(t *testing.T, n *Node, plugin *nriPlugin) {
	pod, id, p := n.Sleeper()
	never := n.Create(pod, p, n.ContainerConfig("true"))
	if _, err := n.Runtime.UpdatePodSandboxResources(t.Context(), &cri.UpdatePodSandboxResourcesRequest{
		PodSandboxId: pod, Resources: &cri.LinuxContainerResources{CpuShares: 512},
	}); err != nil {
		t.Error(err)
	}
	done := n.Run(pod, p, "true")
	n.Exited(done, time.Minute)
	for range 2 {
		if _, err := n.Runtime.StopContainer(t.Context(), &cri.StopContainerRequest{ContainerId: id}); err != nil {
			t.Error(err)
		}
	}
	n.removePod(t, pod)
	plugin.inOrder(t, id, "create", "created", "start", "started", "stop", "remove")
	plugin.inOrder(t, done, "create", "created", "start", "started", "stop", "remove")
	plugin.inOrder(t, never, "create", "created", "stop", "remove")
	plugin.inOrder(t, pod, "run", "update", "updated", "stop", "remove")
}

// TestNRISample: a sample plugin of NRI's own project, which the daemon starts, sets limits
// that annotations of a pod ask for, and refuses what it does not know.
func TestNRISample(t *testing.T) {
	config, _, plugins := nriConfig(t, "")
	if err := os.Symlink(Tool(tools.UlimitAdjuster().Name), filepath.Join(plugins, "10-ulimit-adjuster")); err != nil {
		t.Fatal(err)
	}
	n := Start(t, "--config", config)
	n.Pull(images.Busybox)
	p := n.PodConfig()
	p.Annotations = map[string]string{
		"ulimits.nri.containerd.io/container.set":   "[{type: nofile, hard: 4321, soft: 1234}, {type: RLIMIT_CORE, hard: 4096}]",
		"ulimits.nri.containerd.io/container.wrong": "[{type: nofiles, hard: 4321, soft: 1234}]",
	}
	pod := n.RunPod(p)
	c := n.ContainerConfig("sleep", "3600")
	c.Metadata.Name = "set"
	limits := n.Exec(n.Started(pod, p, c), "cat", "/proc/1/limits")
	for _, want := range []string{"Max open files 1234 4321 files", "Max core file size 0 4096 bytes"} {
		if !strings.Contains(strings.Join(strings.Fields(limits), " "), want) {
			t.Errorf("the limits are %s\nwant %s", limits, want)
		}
	}
	c = n.ContainerConfig("true")
	c.Metadata.Name = "wrong"
	_, err := n.Runtime.CreateContainer(t.Context(), &cri.CreateContainerRequest{PodSandboxId: pod, Config: c, SandboxConfig: p})
	WantCode(t, err, codes.FailedPrecondition)
	if !strings.Contains(fmt.Sprint(err), "nofiles") {
		t.Errorf("the error does not say why: %v", err)
	}
}

// TestNRIHangs: a plugin that hangs is dropped when its time is over, and one that is
// killed at once: pods go on.
func TestNRIHangs(t *testing.T) {
	config, socket, _ := nriConfig(t, "request_timeout = \"500ms\"\n")
	n := Start(t, "--config", config)
	n.Pull(images.Busybox)
	plugin := &nriPlugin{}
	plugin.connect(t, n, socket)
	release := make(chan struct{})
	defer close(release)
	plugin.created = func(*api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
		<-release
		return nil, nil, nil
	}
	pod, id, p := n.Sleeper()
	select {
	case <-plugin.closed:
	case <-time.After(30 * time.Second):
		t.Error("the plugin is still connected")
	}
	plugin.inOrder(t, id, "create")
	n.Run(pod, p, "true")

	dying := &nriPlugin{}
	dying.connect(t, n, socket)
	dying.created = func(*api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
		dying.stub.Stop()
		return nil, nil, nil
	}
	n.Run(pod, p, "true")
}

// TestVirtualNRI: what means the same in a machine is done, the rest refused by name.
func TestVirtualNRI(t *testing.T) {
	config, socket, _ := nriConfig(t, "")
	n := startVirtual(t, config)
	plugin := &nriPlugin{}
	plugin.connect(t, n, socket)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("of the plugin"), 0o644); err != nil {
		t.Fatal(err)
	}
	p := n.PodConfig()
	pod := n.RunPod(p)
	plugin.created = func(*api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
		a := &api.ContainerAdjustment{}
		a.AddEnv("ADDED", "yes")
		a.AddMount(&api.Mount{Source: dir, Destination: "/added", Type: "bind", Options: []string{"rbind", "ro"}})
		a.SetLinuxMemoryLimit(96 << 20)
		return a, nil, nil
	}
	id := n.Started(pod, p, n.ContainerConfig("sleep", "3600"))
	if got := n.Exec(id, "sh", "-c", "echo $ADDED; cat /added/file /sys/fs/cgroup/memory.max"); got != fmt.Sprintf("yes\nof the plugin%d\n", 96<<20) {
		t.Errorf("got %q", got)
	}
	plugin.created = func(*api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
		a := &api.ContainerAdjustment{}
		a.AddDevice(&api.LinuxDevice{Path: "/dev/added", Type: "c", Major: 1, Minor: 5})
		return a, nil, nil
	}
	_, err := n.Runtime.CreateContainer(t.Context(), &cri.CreateContainerRequest{PodSandboxId: pod, Config: n.ContainerConfig("true"), SandboxConfig: p})
	WantCode(t, err, codes.InvalidArgument)
	if !strings.Contains(fmt.Sprint(err), "linux.devices: /dev/added") {
		t.Errorf("the error does not name the device: %v", err)
	}
	plugin.created = nil
	unasked := &api.ContainerUpdate{}
	unasked.SetContainerId(id)
	unasked.SetLinuxMemoryLimit(80 << 20)
	if failed, err := plugin.stub.UpdateContainers([]*api.ContainerUpdate{unasked}); err != nil || len(failed) > 0 {
		t.Errorf("an update that nobody asked for: %v, %v", failed, err)
	}
	if got := n.Exec(id, "cat", "/sys/fs/cgroup/memory.max"); got != strconv.Itoa(80<<20)+"\n" {
		t.Errorf("after it the limit is %s", got)
	}
}
