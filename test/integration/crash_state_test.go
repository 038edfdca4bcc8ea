package integration

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/test/images"
)

// damages are what can be wrong with a record.
var damages = map[string]func(text []byte) []byte{
	"torn":            func(text []byte) []byte { return text[:len(text)/2] },
	"empty":           func([]byte) []byte { return nil },
	"garbage":         func(text []byte) []byte { return bytes.Repeat([]byte{0xff, 0}, len(text)) },
	"unknown version": func(text []byte) []byte { return bytes.Replace(text, []byte(`"version":1`), []byte(`"version":99`), 1) },
	// Another object's record under this one's name.
	"foreign": func(text []byte) []byte {
		return bytes.Replace(text, []byte(`"id":"`), []byte(`"id":"x`), 1)
	},
}

// TestDamagedRecords damages the record of a running container, then that of a sandbox:
// the daemon starts, what is damaged is one object of unknown state that can be
// removed with everything behind it, and others are well.
func TestDamagedRecords(t *testing.T) {
	n := Start(t)
	n.Pull(images.Busybox)
	_, healthy, _ := n.Sleeper()
	for name, damage := range damages {
		t.Run("container "+name, func(t *testing.T) { n.damagedContainer(t, healthy, damage) })
		t.Run("sandbox "+name, func(t *testing.T) { n.damagedSandbox(t, healthy, damage) })
	}
}

func (n *Node) damage(t *testing.T, kind, id string, damage func([]byte) []byte) {
	t.Helper()
	n.StopDaemon()
	path := filepath.Join(n.Paths.State, "records", kind, id+".json")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, damage(text), 0o600); err != nil {
		t.Fatal(err)
	}
	n.StartDaemon()
}

func (n *Node) damagedContainer(t *testing.T, healthy string, damage func([]byte) []byte) {
	pod, id, p := n.Sleeper()
	f := &flood{node: n, t: t, id: id}
	pid := f.pid(t)
	n.damage(t, "container", id, damage)
	if got := n.Status(id).GetState(); got != cri.ContainerState_CONTAINER_UNKNOWN {
		t.Errorf("the container is %s, want unknown", got)
	}
	n.Exec(healthy, "true")
	// As a kubelet does, which must not have two of a container run at once.
	if _, err := n.Runtime.StopContainer(t.Context(), &cri.StopContainerRequest{ContainerId: id, Timeout: 1}); err != nil {
		t.Errorf("stop the container: %v", err)
	}
	if _, err := os.Stat("/proc/" + pid); err == nil {
		t.Error("the stopped container's process runs on")
	}
	if _, err := n.Runtime.RemoveContainer(t.Context(), &cri.RemoveContainerRequest{ContainerId: id}); err != nil {
		t.Errorf("remove the container: %v", err)
	}
	if _, err := os.Stat(filepath.Join(n.Paths.State, "containers", id)); err == nil {
		t.Error("the removed container's bundle is still there")
	}
	n.Run(pod, p, "sleep", "3600")
	n.removePod(t, pod)
	if list := n.containersOf(t, pod); len(list) > 0 {
		t.Errorf("still listed: %v", list)
	}
}

func (n *Node) damagedSandbox(t *testing.T, healthy string, damage func([]byte) []byte) {
	pod, _, _ := n.Sleeper()
	n.damage(t, "sandbox", pod, damage)
	r, err := n.Runtime.PodSandboxStatus(t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: pod})
	if err != nil {
		t.Fatalf("the sandbox's status: %v", err)
	}
	if got := r.GetStatus().GetState(); got != cri.PodSandboxState_SANDBOX_NOTREADY {
		t.Errorf("the sandbox is %s, want not ready", got)
	}
	n.Exec(healthy, "true")
	n.removePod(t, pod)
	if list := n.containersOf(t, pod); len(list) > 0 {
		t.Errorf("still listed: %v", list)
	}
}

func (n *Node) removePod(t *testing.T, pod string) {
	t.Helper()
	if _, err := n.Runtime.StopPodSandbox(t.Context(), &cri.StopPodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Errorf("stop the pod: %v", err)
	}
	if _, err := n.Runtime.RemovePodSandbox(t.Context(), &cri.RemovePodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Errorf("remove the pod: %v", err)
	}
}

func (n *Node) containersOf(t *testing.T, pod string) []*cri.Container {
	t.Helper()
	r, err := n.Runtime.ListContainers(t.Context(), &cri.ListContainersRequest{Filter: &cri.ContainerFilter{PodSandboxId: pod}})
	if err != nil {
		t.Fatal(err)
	}
	return r.GetContainers()
}

// TestReboot takes away what a reboot takes: processes, mounts, the state directory.
// What was there before is shown as ended, with what is known of it, until it is
// removed.
func TestReboot(t *testing.T) {
	n := Start(t)
	n.Pull(images.Busybox)
	p := n.PodConfig()
	pod := n.RunPod(p)
	c := n.ContainerConfig("sh", "-c", "exit 9")
	ended := n.Started(pod, p, c)
	n.Exited(ended, 5*time.Second)
	running := n.Run(pod, p, "sleep", "3600")
	pid := (&flood{node: n, t: t, id: running}).pid(t)
	time.Sleep(time.Second) // the journal is written behind
	n.reboot(t, pid)

	r, err := n.Runtime.PodSandboxStatus(t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: pod})
	if err != nil || r.GetStatus().GetState() != cri.PodSandboxState_SANDBOX_NOTREADY {
		t.Errorf("the sandbox is %v, %v; want not ready", r.GetStatus().GetState(), err)
	}
	s := n.Status(ended)
	if s.GetState() != cri.ContainerState_CONTAINER_EXITED || s.GetExitCode() != 9 || s.GetLogPath() != filepath.Join(p.GetLogDirectory(), c.GetLogPath()) {
		t.Errorf("the container that had ended: %s, exit code %d, log %s", s.GetState(), s.GetExitCode(), s.GetLogPath())
	}
	if s := n.Status(running); s.GetState() != cri.ContainerState_CONTAINER_EXITED || s.GetExitCode() == 0 {
		t.Errorf("the container that ran: %s, exit code %d (%s)", s.GetState(), s.GetExitCode(), s.GetReason())
	}
	// A pod of the same name can only be made anew when the kubelet counts up.
	p.Metadata.Attempt++
	again := n.RunPod(p)
	n.Exec(n.Run(again, p, "sleep", "3600"), "true")
	n.removePod(t, pod)
	if list := n.containersOf(t, pod); len(list) > 0 {
		t.Errorf("still listed: %v", list)
	}
}

// reboot ends the daemon, the monitor and the given processes, and takes the rules and
// the state away.
func (n *Node) reboot(t *testing.T, pids ...string) {
	t.Helper()
	n.KillDaemon()
	n.KillMonitor()
	if InVMs() { // whose processes have numbers of other kernels
		pids = nil
		machines, err := machinePids()
		if err != nil {
			t.Fatal(err)
		}
		for _, pid := range machines {
			pids = append(pids, strconv.Itoa(pid))
		}
	}
	n.killPods(t, pids)
	text, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(text), "\n")
	for i := len(lines) - 1; i >= 0; i-- { // the latest first
		f := strings.Fields(lines[i])
		if len(f) < 2 || f[1] != n.Paths.State && !strings.HasPrefix(f[1], n.Paths.State+"/") {
			continue
		}
		if err := unix.Unmount(f[1], unix.MNT_DETACH); err != nil {
			t.Fatalf("unmount %s: %v", f[1], err)
		}
	}
	for _, flag := range []string{"-F", "-X"} {
		if out, err := exec.Command("iptables", "-t", "nat", flag).CombinedOutput(); err != nil {
			t.Fatalf("iptables: %v: %s", err, out)
		}
	}
	if err := os.RemoveAll(n.Paths.State); err != nil {
		t.Fatal(err)
	}
	n.StartDaemon()
}

// killPods kills the first processes of containers, and so all there is in them.
func (n *Node) killPods(t *testing.T, pids []string) {
	t.Helper()
	for _, pid := range pids {
		p, err := strconv.Atoi(pid)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Kill(p, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		Within(t, 5*time.Second, "the process ends", func() bool {
			_, err := os.Stat("/proc/" + pid)
			return err != nil
		})
	}
}
