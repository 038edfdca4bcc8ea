package integration

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/test/images"
)

// TestExecOutlivesDaemon kills the daemon under exec'd processes: they go on, and their
// clients get an error.
func TestExecOutlivesDaemon(t *testing.T) {
	n := Start(t)
	n.Pull(images.Busybox)
	p := n.PodConfig()
	id := n.Run(n.RunPod(p), p, "sh", "-c", "while :; do sleep 1; done")
	call := n.execInBackground(id, 0, "sh", "-c", "touch /begun; sleep 2; echo more; touch /ended")
	s := n.ExecSession(&cri.ExecRequest{ContainerId: id, Stdout: true, Cmd: []string{"sh", "-c", "echo hello; sleep 2; touch /session"}})
	if b := make([]byte, 6); true {
		if _, err := io.ReadFull(s.Stdout, b); err != nil || string(b) != "hello\n" {
			t.Fatalf("the session says %q, %v", b, err)
		}
	}
	n.shows(id, "/begun")
	n.KillDaemon()
	if err := <-call; err == nil {
		t.Error("the call that was cut off succeeds")
	}
	if rest, err := io.ReadAll(s.Stdout); len(rest) > 0 {
		t.Errorf("the session goes on: %q, %v", rest, err)
	}
	if code, _ := s.ended(); code == 0 {
		t.Error("the session that was cut off ends with success")
	}
	n.StartDaemon()
	if n.has(id, "/ended") || n.has(id, "/session") {
		t.Fatal("the commands ended too early to prove anything")
	}
	n.shows(id, "/ended")
	n.shows(id, "/session")
}

// ended is End for a session whose connection may have been lost with the daemon.
func (s *Session) ended() (int, error) {
	data, err := io.ReadAll(s.errors)
	if strings.Contains(string(data), "Success") {
		return 0, err
	}
	return -1, err
}

// execInBackground makes an ExecSync whose error comes through the channel.
func (n *Node) execInBackground(id string, timeout int64, command ...string) <-chan error {
	done := make(chan error, 1)
	go func() {
		_, err := n.Runtime.ExecSync(n.t.Context(), &cri.ExecSyncRequest{ContainerId: id, Cmd: command, Timeout: timeout})
		done <- err
	}()
	return done
}

// has tells whether a container has a file.
func (n *Node) has(id, path string) bool {
	n.t.Helper()
	r, err := n.Runtime.ExecSync(n.t.Context(), &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"test", "-e", path}, Timeout: 10}, wait)
	if err != nil {
		n.t.Fatal(err)
	}
	return r.GetExitCode() == 0
}

// shows waits until a container has a file.
func (n *Node) shows(id, path string) {
	n.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !n.has(id, path); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			n.t.Fatalf("%s does not appear", path)
		}
	}
}

// TestExecTimeoutOutlivesDaemon kills the daemon under a command with a time limit,
// which strikes nevertheless, and not before its time.
func TestExecTimeoutOutlivesDaemon(t *testing.T) {
	n := Start(t)
	n.Pull(images.Busybox)
	p := n.PodConfig()
	id := n.Run(n.RunPod(p), p, "sh", "-c", "while :; do sleep 1; done")
	began := time.Now()
	call := n.execInBackground(id, 3, "sh", "-c", "touch /begun; while :; do sleep 0.1; touch /alive; done")
	n.shows(id, "/begun")
	n.RestartDaemon()
	<-call
	if n.Exec(id, "rm", "-f", "/alive"); time.Since(began) < 2*time.Second {
		n.shows(id, "/alive")
	}
	time.Sleep(time.Until(began.Add(4 * time.Second)))
	n.Exec(id, "rm", "-f", "/alive")
	time.Sleep(300 * time.Millisecond)
	if n.has(id, "/alive") {
		t.Error("the command goes on after its time")
	}
}

// TestExitWithoutDaemon lets a container exit while no daemon runs: code and time are
// the true ones, and its log is complete.
func TestExitWithoutDaemon(t *testing.T) {
	n := Start(t)
	n.Pull(images.Busybox)
	p := n.PodConfig()
	pod := n.RunPod(p)
	c := n.ContainerConfig("sh", "-c", "echo hello; sleep 1; echo bye; exit 42")
	id := n.Create(pod, p, c)
	n.StartContainer(id)
	started := time.Now()
	n.KillDaemon()
	time.Sleep(3 * time.Second)
	n.StartDaemon()
	s := n.Exited(id, time.Second)
	if s.GetExitCode() != 42 {
		t.Errorf("exit code %d (%s), want 42", s.GetExitCode(), s.GetReason())
	}
	if ran := time.Unix(0, s.GetFinishedAt()).Sub(started); ran < 500*time.Millisecond || ran > 2*time.Second {
		t.Errorf("it is said to have run for %s", ran)
	}
	log, err := os.ReadFile(filepath.Join(p.GetLogDirectory(), c.GetLogPath()))
	if err != nil || strings.Count(string(log), "\n") != 2 || !strings.Contains(string(log), " stdout F bye\n") {
		t.Errorf("the log is %q, %v", log, err)
	}
}

// TestMonitorUpgrade makes the monitor execute its program anew, under a container that
// floods its log and a client that is attached: no line is lost, and the process, its
// children and their exit codes stay.
func TestMonitorUpgrade(t *testing.T) {
	n := Start(t)
	n.Pull(images.Busybox)
	p := n.PodConfig()
	c := n.ContainerConfig("cat")
	c.Stdin = true
	pod := n.RunPod(p)
	attached := n.Create(pod, p, c)
	n.StartContainer(attached)
	s := n.AttachSession(&cri.AttachRequest{ContainerId: attached, Stdin: true, Stdout: true})
	if _, err := io.WriteString(s.Stdin, "before\n"); err != nil {
		t.Fatal(err)
	}
	if b := make([]byte, 7); true {
		if _, err := io.ReadFull(s.Stdout, b); err != nil || string(b) != "before\n" {
			t.Fatalf("attached: %q, %v", b, err)
		}
	}
	f := n.flood(t)
	monitor := n.MonitorPid()
	for i := range 3 {
		f.after(int64(i+1) * 30_000_000)
		n.upgradeMonitor(t)
	}
	if got := n.MonitorPid(); got != monitor {
		t.Errorf("the monitor is process %d, was %d", got, monitor)
	}
	if e := n.Exited(f.id, 60*time.Second); e.GetExitCode() != 5 {
		t.Errorf("exit code %d (%s), want 5", e.GetExitCode(), e.GetReason())
	}
	if whole, torn := f.read(t); whole != outputLines || torn != 0 {
		t.Errorf("%d lines, %d torn; want %d whole ones", whole, torn, outputLines)
	}
	// A client that was cut off comes again.
	s = n.AttachSession(&cri.AttachRequest{ContainerId: attached, Stdin: true, Stdout: true})
	if _, err := io.WriteString(s.Stdin, "after\n"); err != nil {
		t.Fatal(err)
	}
	if b := make([]byte, 6); true {
		if _, err := io.ReadFull(s.Stdout, b); err != nil || string(b) != "after\n" {
			t.Fatalf("attached again: %q, %v", b, err)
		}
	}
}
