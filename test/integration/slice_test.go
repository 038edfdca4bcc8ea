package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/test/images"
)

func TestMain(m *testing.M) {
	if !runAsPlugin() {
		Main(m)
	}
}

// TestPodLife is one busybox pod from pull to removal.
func TestPodLife(t *testing.T) {
	n := Start(t)
	n.Pull(images.Busybox)
	p := n.PodConfig()
	pod := n.RunPod(p)
	c := n.ContainerConfig("sh", "-c", "echo hello; trap 'exit 7' TERM; while :; do sleep 0.1; done")
	id := n.Create(pod, p, c)
	n.StartContainer(id)
	if out := n.Exec(id, "cat", "/proc/1/cmdline"); !strings.HasPrefix(out, "sh\x00") {
		t.Errorf("the first process is %q", out)
	}
	if _, err := n.Runtime.StopContainer(t.Context(), &cri.StopContainerRequest{ContainerId: id, Timeout: 10}); err != nil {
		t.Fatalf("stop container: %v", err)
	}
	if s := n.Exited(id, time.Second); s.GetExitCode() != 7 {
		t.Errorf("exit code %d, want 7", s.GetExitCode())
	}
	log, err := os.ReadFile(filepath.Join(p.GetLogDirectory(), c.GetLogPath()))
	if err != nil || !strings.Contains(string(log), " stdout F hello\n") {
		t.Errorf("the log is %q, %v", log, err)
	}
	if out := n.Crictl("ps", "-a", "-q"); strings.TrimSpace(out) != id {
		t.Errorf("crictl ps lists %q, want %s", out, id)
	}
}

// TestRestart kills the daemon under a running container.
func TestRestart(t *testing.T) {
	n := Start(t)
	n.Pull(images.Busybox)
	p := n.PodConfig()
	pod := n.RunPod(p)
	id := n.Run(pod, p, "sh", "-c", "sleep 1; exit 5")
	monitor := n.MonitorPid()
	n.KillDaemon()
	time.Sleep(1500 * time.Millisecond) // the container ends meanwhile
	n.StartDaemon()
	if got := n.MonitorPid(); got != monitor {
		t.Errorf("the monitor is process %d, was %d", got, monitor)
	}
	if s := n.Exited(id, 5*time.Second); s.GetExitCode() != 5 {
		t.Errorf("exit code %d, want 5", s.GetExitCode())
	}
}
