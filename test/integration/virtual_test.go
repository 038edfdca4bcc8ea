package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/test/images"
)

// startVirtual starts a node whose pods are virtual machines by their handler while its
// default is another, but where machines are the default anyhow. No machines are kept ready; the
// template is made. Files that are named are taken up into its configuration.
func startVirtual(t *testing.T, files ...string) *Node {
	t.Helper()
	text := ""
	if !InVMs() {
		guest := os.Getenv(guestEnv)
		if _, err := os.Stat(filepath.Join(guest, "manifest.json")); err != nil {
			t.Fatalf("there is no guest to boot: %v; make guest makes it", err)
		}
		text = fmt.Sprintf("[vm]\nimage = %q\nkernel = %q\npool = 0\n", guest, os.Getenv(kernelEnv))
	}
	for _, f := range files {
		more, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		text += string(more)
	}
	file := filepath.Join(t.TempDir(), "vm.toml")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	n := Start(t, "--config", file)
	n.virtual = true
	n.connect(t)
	n.Pull(images.Busybox)
	pod, _, _ := n.Sleeper() // after the first pod there is a template
	n.removePod(t, pod)
	n.templateMade()
	n.before = n.observe()
	return n
}

// TestVirtualMachineDies is TestMachineDies for a pod that asks for a machine.
func TestVirtualMachineDies(t *testing.T) {
	n := startVirtual(t)
	n.machinesDie()
	t.Run("removed while it hangs", n.hungPod)
}

// hungPod removes a pod whose machine has stopped answering a moment ago.
func (n *Node) hungPod(t *testing.T) {
	n = n.For(t)
	pod, _, _ := n.Sleeper()
	if err := unix.Kill(n.onlyMachine(), unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	n.removePod(t, pod)
	t.Logf("removed after %s", time.Since(began).Round(time.Millisecond))
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("that took %s", took)
	}
	if pids, err := machinePids(); err != nil || len(pids) > 0 {
		t.Errorf("machines are left: %v, %v", pids, err)
	}
	n.LeakCheck()
}

// TestVirtualMachineOutlives ends the daemon, the monitor and both under a machine: its
// containers take commands again, their logs have every line once, and their exits are
// known.
func TestVirtualMachineOutlives(t *testing.T) {
	n := startVirtual(t)
	for name, kill := range map[string]func(*Node){
		"daemon":  func(n *Node) { n.RestartDaemon() },
		"monitor": func(n *Node) { n.renewMonitor(n.t) },
		"both":    func(n *Node) { n.KillDaemon(); n.KillMonitor(); n.StartDaemon() },
	} {
		t.Run(name, func(t *testing.T) { n.For(t).machineOutlives(kill) })
	}
}

func (n *Node) machineOutlives(kill func(*Node)) {
	t := n.t
	p := n.PodConfig()
	pod := n.RunPod(p)
	c := n.ContainerConfig("sh", "-c", "i=0; while [ ! -e /end ]; do echo line $i; i=$((i+1)); usleep 5000; done; echo all $i; exit 42")
	id := n.Started(pod, p, c)
	machine := n.onlyMachine()
	for range 3 {
		n.grows(p, c)
		kill(n)
		if got := n.Exec(id, "echo", "alive"); got != "alive\n" {
			t.Errorf("the container says %q", got)
		}
	}
	n.grows(p, c)
	// A new daemon makes a template of its own behind the requests.
	if pids, err := machinePids(); err != nil || !slices.Contains(pids, machine) {
		t.Errorf("the machine was %d, now there are %v, %v", machine, pids, err)
	}
	// Later than this answers: what runs in a container ends with it.
	n.Exec(id, "sh", "-c", "(sleep 0.2; touch /end) >/dev/null 2>&1 &")
	if s := n.Exited(id, settle); s.GetExitCode() != 42 || s.GetReason() != "Error" {
		t.Errorf("exit code %d (%s), want 42", s.GetExitCode(), s.GetReason())
	}
	if err := everyLine(n.Log(p, c)); err != nil {
		t.Error(err)
	}
	n.removePod(t, pod)
	n.templateMade()
}

// grows waits until a container has logged more.
func (n *Node) grows(p *cri.PodSandboxConfig, c *cri.ContainerConfig) {
	n.t.Helper()
	before := len(n.Log(p, c))
	Within(n.t, settle, "the log goes on", func() bool { return len(n.Log(p, c)) > before+200 })
}

var countedLine = regexp.MustCompile(`(?m)^\S+ stdout F (line|all) (\d+)$`)

// everyLine returns an error unless a log has "line 0" and so on up to "all COUNT".
func everyLine(log string) error {
	lines := countedLine.FindAllStringSubmatch(log, -1)
	for i, l := range lines {
		if l[2] != strconv.Itoa(i) {
			return fmt.Errorf("line %d is %q", i, l[0])
		}
	}
	if len(lines) == 0 || lines[len(lines)-1][1] != "all" {
		return fmt.Errorf("the log of %d lines has no end", len(lines))
	}
	return nil
}
