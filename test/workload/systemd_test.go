package workload

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/test/images"
	"github.com/cricket-cri/cricket/test/integration"
)

// bootTime is how long a system may take to start its services, emulated on a busy
// machine. A job that waits for what never comes takes 90 seconds more.
const bootTime = 85 * time.Second

// TestSystemd runs a whole system as a privileged container of a machine: with nothing said
// to it of containers it starts all its services, loads its own settings into the machine's
// kernel, leaves the pod's network alone, and shuts down in order when it is stopped.
func TestSystemd(t *testing.T) {
	n := start(t, images.Systemd, images.Busybox)
	p := n.run(func(c *cri.PodSandboxConfig) { c.Linux.SecurityContext.Privileged = true })
	beside, _ := p.container(images.Busybox, nil, "sleep", "3600")
	own := filepath.Join(n.Paths.Dir, "own")
	if err := os.Mkdir(own, 0o755); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	id, c := p.container(images.Systemd, func(c *cri.ContainerConfig) {
		c.Command = nil // the image's
		c.Linux.SecurityContext = &cri.LinuxContainerSecurityContext{Privileged: true}
		c.Mounts = []*cri.Mount{{HostPath: own, ContainerPath: "/var/lib/own"}}
	})
	defer func() {
		if t.Failed() {
			t.Logf("%s\n%s", n.whatSystemdSays(id), n.Log(p.config, c))
		}
	}()
	var state string
	integration.Within(t, bootTime, "the system is up", func() bool {
		time.Sleep(time.Second) // every question costs it time
		state, _ = n.try(id, 30*time.Second, "systemctl", "is-system-running")
		return state == "running\n" || state == "degraded\n"
	})
	t.Logf("up after %s", time.Since(began).Round(time.Second))
	if state != "running\n" {
		t.Errorf("the system is %q", state)
	}
	n.must(id, time.Minute, "systemctl", "is-active", "multi-user.target", "own.service")
	n.settingsLoaded(beside)
	if got := n.must(beside, time.Minute, "ip", "-o", "link"); !strings.Contains(got, ": eth0:") {
		t.Errorf("the pod's interface is not eth0:\n%s", got)
	}
	began = time.Now()
	s := n.stop(id, 60)
	t.Logf("stopped after %s with exit code %d", time.Since(began).Round(time.Second/10), s.GetExitCode())
	if s.GetExitCode() == 137 {
		t.Errorf("it had to be killed: %v", s)
	}
	life, err := os.ReadFile(filepath.Join(own, "life"))
	if err != nil || string(life) != "started\nstopped\n" {
		t.Errorf("its service says %q, %v", life, err)
	}
}

// settingsLoaded: what the image sets is the machine's, and nobody else's.
func (n *node) settingsLoaded(beside string) {
	n.t.Helper()
	file := "/proc/sys/" + strings.ReplaceAll(images.SystemdSysctl, ".", "/")
	if got := n.must(beside, time.Minute, "cat", file); got != images.SystemdSysctlValue {
		n.t.Errorf("%s is %s in the machine, want %s", images.SystemdSysctl, got, images.SystemdSysctlValue)
	}
	here, err := os.ReadFile(file)
	if err != nil {
		n.t.Fatal(err)
	}
	if strings.TrimSpace(string(here)) == images.SystemdSysctlValue {
		n.t.Errorf("%s is %s on the host too", images.SystemdSysctl, here)
	}
}

func (n *node) whatSystemdSays(id string) string {
	if n.Status(id).GetState() != cri.ContainerState_CONTAINER_RUNNING {
		return "it does not run any more"
	}
	out, _ := n.try(id, time.Minute, "sh", "-c", "systemctl --no-pager list-jobs; systemctl --no-pager --failed; journalctl --no-pager -b | tail -100")
	return out
}
