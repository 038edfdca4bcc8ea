package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/test/harness"
	"github.com/cricket-cri/cricket/test/images"
)

// hostPod is a pod in the node's network.
func (n *Node) hostPod() *cri.PodSandboxConfig {
	p := n.PodConfig()
	p.Linux.SecurityContext.NamespaceOptions.Network = cri.NamespaceMode_NODE
	return p
}

// TestSideBySide: two daemons on one machine know nothing of each other.
func TestSideBySide(t *testing.T) {
	a := Start(t)
	a.Pull(images.Busybox)
	ids := map[*Node]string{}
	p := a.hostPod()
	ids[a] = a.Run(a.RunPod(p), p, "sleep", "3600") // before the second one looks for leaks
	state := ""
	t.Cleanup(func() { // what the second one has mounted is none of the first one's leaks
		if err := unix.Unmount(state, unix.MNT_DETACH); err != nil && err != unix.EINVAL {
			t.Error(err)
		}
	})
	b := Start(t)
	state = b.Paths.State
	b.Pull(images.Busybox)
	ids[b] = b.Run(b.RunPod(p), p, "sleep", "3600") // of the same names
	for _, n := range []*Node{a, b} {
		r, err := n.Runtime.ListContainers(t.Context(), &cri.ListContainersRequest{})
		if err != nil || len(r.GetContainers()) != 1 || r.GetContainers()[0].GetId() != ids[n] {
			t.Errorf("containers are %v, %v", r.GetContainers(), err)
		}
	}
	if a.MonitorPid() == b.MonitorPid() {
		t.Error("they share a monitor")
	}
	b.RestartDaemon()
	b.KillMonitor()
	Within(t, 10*time.Second, "the second one has a monitor again", func() bool {
		_, err := b.Paths.MonitorPid()
		return err == nil
	})
	if err := b.daemon.RemovePods(t.Context()); err != nil {
		t.Error(err)
	}
	if got := a.Exec(ids[a], "echo", "alive"); got != "alive\n" {
		t.Errorf("the first one's container says %q", got)
	}
	if err := a.daemon.RemovePods(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestSecondInstance: a daemon on another's state says so and touches nothing.
func TestSecondInstance(t *testing.T) {
	n := Start(t)
	n.Pull(images.Busybox)
	_, id, _ := n.Sleeper()
	for what, change := range map[string]func(p *harness.Paths){
		"all":   func(*harness.Paths) {},
		"state": func(p *harness.Paths) { p.Socket += ".other"; p.Root += ".other" },
		"root":  func(p *harness.Paths) { p.Socket += ".other"; p.State += ".other" },
	} {
		p := n.Paths
		change(&p)
		c, err := harness.Cricketd(filepath.Join(os.Getenv(binEnv), "cricketd"))(p)
		if err != nil {
			t.Fatal(err)
		}
		c.Env = append(os.Environ(), "PATH="+os.Getenv(binEnv)+":"+os.Getenv("PATH"))
		ended := time.AfterFunc(10*time.Second, func() { c.Process.Kill() })
		out, err := c.CombinedOutput()
		if !ended.Stop() || err == nil || !strings.Contains(string(out), "another") && !strings.Contains(string(out), "already") {
			t.Errorf("a second daemon on the same %s: %v\n%s", what, err, out)
		}
		if p.State != n.Paths.State {
			unix.Unmount(p.State, unix.MNT_DETACH)
		}
	}
	if got := n.Exec(id, "echo", "alive"); got != "alive\n" {
		t.Errorf("the container says %q", got)
	}
	if got := n.Crictl("ps", "-q"); strings.TrimSpace(got) != id {
		t.Errorf("crictl lists %q", got)
	}
}

// TestDrain: SIGTERM lets what is under way come to its end, and pods run on.
func TestDrain(t *testing.T) {
	n := Start(t)
	n.Pull(images.Busybox)
	_, id, _ := n.Sleeper()
	events := n.subscribe(t.Context())
	if err := os.WriteFile(n.Failpoints, []byte("run pod sandbox/record sandbox/before=slow"), 0o644); err != nil {
		t.Fatal(err)
	}
	p := n.PodConfig()
	pod := make(chan answer, 1)
	go func() { pod <- n.tryRun(p) }()
	Within(t, 5*time.Second, "it is at the slow step", func() bool {
		_, err := os.Stat(n.Failpoints)
		return os.IsNotExist(err)
	})
	n.StopDaemon()
	a := <-pod
	if a.err != nil {
		t.Errorf("a request that was under way: %v", a.err)
	}
	for { // its end is told
		if _, err := events.Recv(); err != nil {
			break
		}
	}
	n.StartDaemon()
	r, err := n.Runtime.PodSandboxStatus(t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: a.id})
	if err != nil || r.GetStatus().GetState() != cri.PodSandboxState_SANDBOX_READY {
		t.Errorf("the pod's status is %v, %v", r, err)
	}
	if got := n.Exec(id, "echo", "alive"); got != "alive\n" {
		t.Errorf("the container says %q", got)
	}
	n.NoPanic()
}

// TestDescriptors: the monitor holds at most 6 for each container, and none for one
// that is gone, besides the one of the OCI runtime.
func TestDescriptors(t *testing.T) {
	n := Start(t)
	n.Pull(images.Busybox)
	open := func() int {
		t.Helper()
		list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", n.MonitorPid()))
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	p := n.hostPod()
	pod := n.RunPod(p)
	// The first has the monitor open the OCI runtime, for all of them.
	first := n.Started(pod, p, n.ContainerConfig("sleep", "3600"))
	if _, err := n.Runtime.RemoveContainer(t.Context(), &cri.RemoveContainerRequest{ContainerId: first}); err != nil {
		t.Fatal(err)
	}
	before := open()
	const count = 60
	configs := make([]*cri.ContainerConfig, count)
	for i := range configs {
		configs[i] = n.ContainerConfig("sleep", "3600")
		configs[i].Stdin, configs[i].Tty = i%2 == 0, i%4 == 0
	}
	for _, err := range AllOf(count, func(i int) error {
		r, err := n.Runtime.CreateContainer(t.Context(), &cri.CreateContainerRequest{PodSandboxId: pod, Config: configs[i], SandboxConfig: p})
		if err == nil {
			_, err = n.Runtime.StartContainer(t.Context(), &cri.StartContainerRequest{ContainerId: r.GetContainerId()})
		}
		return err
	}) {
		if err != nil {
			t.Fatal(err)
		}
	}
	if each := float64(open()-before) / count; each > 6 || each < 1 {
		t.Errorf("%.1f descriptors a container", each)
	}
	if _, err := n.Runtime.RemovePodSandbox(t.Context(), &cri.RemovePodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Fatal(err)
	}
	Within(t, settle, "the descriptors are closed", func() bool { return open() <= before+2 })
}
