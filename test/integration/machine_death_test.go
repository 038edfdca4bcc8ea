package integration

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/test/images"
)

// machinePids are the processes of virtual machines in the node.
func machinePids() ([]int, error) {
	names, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil || !bytes.Contains(text, []byte("\x00guest=")) {
			continue // ended meanwhile, or no machine
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		if err != nil {
			return nil, err
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

// onlyMachine is the process of the node's only machine.
func (n *Node) onlyMachine() int {
	n.t.Helper()
	pids, err := machinePids()
	if err != nil || len(pids) != 1 {
		n.t.Fatalf("machines are %v, %v; want one", pids, err)
	}
	return pids[0]
}

// panicNow ends a guest's kernel, from a privileged container. It exits with 44 where the
// kernel has no magic keys, as the small one.
const panicNow = "[ -e /proc/sysrq-trigger ] || exit 44; echo c > /proc/sysrq-trigger; sleep 60"

// needVMs skips a test of machines where pods are none.
func needVMs(t *testing.T) {
	t.Helper()
	if !InVMs() {
		t.Skip("pods are no virtual machines here; see " + HullEnv)
	}
}

// TestMachineDies ends a pod's machine in every way that there is: its containers have
// ended with an exit that nobody knows, which is told, the sandbox is not ready, and
// all can be removed.
func TestMachineDies(t *testing.T) {
	needVMs(t)
	n := Start(t)
	n.Pull(images.Busybox)
	n.machinesDie()
}

func (n *Node) machinesDie() {
	signal := func(s unix.Signal) func(*testing.T, *Node, string) {
		return func(t *testing.T, n *Node, _ string) {
			if err := unix.Kill(n.onlyMachine(), s); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, death := range []struct {
		name   string
		within time.Duration
		strike func(*testing.T, *Node, string)
	}{
		{"killed", 2 * time.Second, signal(unix.SIGKILL)},
		// Silence has to be told from slowness.
		{"hangs", 10 * time.Second, signal(unix.SIGSTOP)},
		// The kernel is emulated while it dies.
		{"panics", 10 * time.Second, func(t *testing.T, n *Node, privileged string) {
			// Nobody may be left to answer.
			r, err := n.Runtime.ExecSync(t.Context(), &cri.ExecSyncRequest{
				ContainerId: privileged, Cmd: []string{"sh", "-c", panicNow}, Timeout: 20,
			})
			if r.GetExitCode() == 44 {
				n.removeAll()
				t.Skip(errNoPanic)
			}
			if err == nil {
				t.Errorf("the exec that ended its machine has succeeded: %v", r)
			}
		}},
	} {
		n.t.Run(death.name, func(t *testing.T) { n.For(t).machineDies(death.within, death.strike) })
	}
}

func (n *Node) machineDies(within time.Duration, strike func(*testing.T, *Node, string)) {
	t := n.t
	p := n.PodConfig()
	p.Linux.SecurityContext.Privileged = true
	pod := n.RunPod(p)
	plain := n.Run(pod, p, "sleep", "3600")
	c := n.ContainerConfig("sleep", "3600")
	c.Linux.SecurityContext = &cri.LinuxContainerSecurityContext{Privileged: true}
	privileged := n.Started(pod, p, c)
	created := n.Create(pod, p, n.ContainerConfig("true"))
	ended := n.Run(pod, p, "sh", "-c", "exit 9")
	n.Exited(ended, settle)
	told := n.toldStopped(pod, plain, privileged)

	began := time.Now()
	strike(t, n, privileged)
	for _, id := range []string{plain, privileged} {
		s := n.Exited(id, time.Until(began.Add(within)))
		if s.GetReason() != "Unknown" || s.GetMessage() == "" || s.GetExitCode() == 0 || s.GetFinishedAt() < s.GetStartedAt() {
			t.Errorf("the container has exit code %d (%s: %q)", s.GetExitCode(), s.GetReason(), s.GetMessage())
		}
	}
	Within(t, time.Until(began.Add(within)), "the sandbox is not ready", func() bool {
		r, err := n.Runtime.PodSandboxStatus(t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: pod})
		return err == nil && r.GetStatus().GetState() == cri.PodSandboxState_SANDBOX_NOTREADY
	})
	t.Logf("found after %s", time.Since(began).Round(time.Millisecond))
	if err := <-told; err != nil {
		t.Errorf("the ends are not told: %v", err)
	}
	if s := n.Status(ended); s.GetExitCode() != 9 {
		t.Errorf("what had ended before has exit code %d (%s)", s.GetExitCode(), s.GetReason())
	}
	if _, err := n.Runtime.StartContainer(t.Context(), &cri.StartContainerRequest{ContainerId: created}); err == nil {
		t.Error("a container starts in a dead machine")
	}
	n.removePod(t, pod)
	if pids, err := machinePids(); err != nil || len(pids) > 0 {
		t.Errorf("machines are left: %v, %v", pids, err)
	}
	n.LeakCheck()
}

// toldStopped answers when events have told that the containers of a pod stopped.
func (n *Node) toldStopped(pod string, containers ...string) <-chan error {
	n.t.Helper()
	s := n.subscribe(short(n.t, time.Minute))
	told := make(chan error, 1)
	go func() {
		for left := slices.Clone(containers); len(left) > 0; {
			e, err := s.Recv()
			if err != nil {
				told <- err
				return
			}
			if e.GetContainerEventType() == cri.ContainerEventType_CONTAINER_STOPPED_EVENT {
				left = slices.DeleteFunc(left, func(id string) bool { return id == e.GetContainerId() })
			}
		}
		told <- nil
	}()
	return told
}

// TestMachineHeldBack: a machine whose pod may use next to no processor time does not answer,
// and is not taken for dead.
func TestMachineHeldBack(t *testing.T) {
	needVMs(t)
	n := Start(t)
	n.Pull(images.Busybox)
	pod, id, _ := n.Sleeper()
	limit := func(r *cri.LinuxContainerResources) {
		t.Helper()
		if _, err := n.Runtime.UpdatePodSandboxResources(t.Context(), &cri.UpdatePodSandboxResourcesRequest{PodSandboxId: pod, Resources: r}); err != nil {
			t.Fatal(err)
		}
	}
	limit(&cri.LinuxContainerResources{CpuPeriod: 1_000_000, CpuQuota: 1000})
	time.Sleep(25 * time.Second) // a machine that computed all that time would hang
	limit(&cri.LinuxContainerResources{CpuPeriod: 100_000, CpuQuota: -1})
	r, err := n.Runtime.PodSandboxStatus(t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: pod})
	if err != nil || r.GetStatus().GetState() != cri.PodSandboxState_SANDBOX_READY {
		t.Errorf("the pod is %v, %v", r.GetStatus(), err)
	}
	if got := n.Exec(id, "echo", "there"); got != "there\n" {
		t.Errorf("the container says %q", got)
	}
}

// TestMachineDiesUnseen kills a machine while there is no daemon, or neither daemon nor
// monitor.
func TestMachineDiesUnseen(t *testing.T) {
	needVMs(t)
	n := Start(t)
	n.Pull(images.Busybox)
	for _, monitor := range []bool{false, true} {
		pod, id, _ := n.Sleeper()
		machine := n.onlyMachine()
		n.KillDaemon()
		if monitor {
			n.KillMonitor()
		}
		if err := unix.Kill(machine, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		n.StartDaemon()
		if s := n.Exited(id, settle); s.GetReason() != "Unknown" {
			t.Errorf("the container has exit code %d (%s)", s.GetExitCode(), s.GetReason())
		}
		r, err := n.Runtime.PodSandboxStatus(t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: pod})
		if err != nil || r.GetStatus().GetState() != cri.PodSandboxState_SANDBOX_NOTREADY {
			t.Errorf("the sandbox is %v, %v", r.GetStatus().GetState(), err)
		}
		n.removePod(t, pod)
		n.quiet()
	}
}

// TestPoolIsTidy: what waits for pods is nobody's loss. A daemon that ends orderly
// takes it along, and one that is killed leaves it to the next.
func TestPoolIsTidy(t *testing.T) {
	needVMs(t)
	n := StartPool(t, 1)
	n.Pull(images.Busybox)
	parked := func(want int) {
		t.Helper()
		Within(t, settleTime(), "machines wait for pods", func() bool {
			pids, err := machinePids()
			return err == nil && len(pids) == want
		})
	}
	pod, id, _ := n.Sleeper()
	parked(2) // the pod's, and one more
	n.RestartDaemon()
	n.Exec(id, "true")
	parked(2)
	n.StopDaemon()
	parked(1)
	n.StartDaemon()
	n.Exec(id, "true")
	n.removePod(t, pod)
	n.StopDaemon()
	parked(0)
	left, err := os.ReadDir(filepath.Join(n.Paths.State, "vm", "pool"))
	if err != nil && !errors.Is(err, os.ErrNotExist) || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	n.before = nil // there is nobody to ask, and nothing to remove
}

// removeAll removes all pods, for a test that ends early.
func (n *Node) removeAll() {
	n.t.Helper()
	if err := n.daemon.RemovePods(n.t.Context()); err != nil {
		n.t.Error(err)
	}
}
