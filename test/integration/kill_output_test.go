package integration

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/test/images"
)

const (
	// outputLine is the length of a line of the flood, with its newline.
	outputLine = 1000
	// outputLines is how many it has: 200 MB.
	outputLines = 200_000
	// readBuffer is how much of a stream a monitor holds that it has not logged.
	readBuffer = 64 << 10
	// longestLine is max_log_line's default.
	longestLine = 16 << 10
)

// TestOutputSurvivesKills kills the daemon, the monitor and both while a container
// writes as fast as it is read, and holds them to what docs/decisions/0001 promises.
func TestOutputSurvivesKills(t *testing.T) {
	n := Start(t)
	n.Pull(images.Busybox)
	for _, c := range []struct {
		name string
		kill func()
		// deaths of a monitor: each may cost a buffer and the beginning of a line.
		deaths int
	}{
		{"daemon", func() { n.RestartDaemon() }, 0},
		{"monitor", func() { n.renewMonitor(t) }, 1},
		{"both", func() { n.KillDaemon(); n.KillMonitor(); time.Sleep(100 * time.Millisecond); n.StartDaemon() }, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := n.flood(t)
			f.after(10_000_000)
			pid := f.pid(t)
			const kills = 2
			for i := range kills {
				c.kill()
				f.after(int64(i+2) * 50_000_000)
			}
			if got := f.pid(t); got != pid {
				t.Errorf("the container's process is %s, was %s", got, pid)
			}
			s := n.Exited(f.id, 60*time.Second)
			if s.GetExitCode() != 5 || s.GetReason() != "Error" {
				t.Errorf("exit code %d (%s), want 5", s.GetExitCode(), s.GetReason())
			}
			whole, torn := f.read(t)
			took := time.Duration(s.GetFinishedAt() - s.GetStartedAt())
			t.Logf("%d of %d lines lost, %d torn, at %d MB/s", outputLines-whole-torn, outputLines, torn,
				outputLines*outputLine/1e6*int(time.Second)/int(took))
			deaths := kills * c.deaths
			if lost := outputLines - whole - torn; lost > deaths*((readBuffer+longestLine)/outputLine+2) || lost < 0 {
				t.Errorf("%d lines are lost", lost)
			}
			if torn > 2*deaths {
				t.Errorf("%d lines are torn", torn)
			}
		})
	}
}

// flood is a container that writes numbered lines and exits with 5.
type flood struct {
	node *Node
	t    *testing.T
	id   string
	log  string
}

func (n *Node) flood(t *testing.T) *flood {
	p := n.PodConfig()
	pod := n.RunPod(p)
	c := n.ContainerConfig("sh", "-c", fmt.Sprintf(
		`awk 'BEGIN { pad = sprintf("%%%ds", ""); gsub(" ", "x", pad); for (i = 0; i < %d; i++) printf "%%09d %%s\n", i, pad }'; exit 5`,
		outputLine-11, outputLines))
	f := &flood{node: n, t: t, id: n.Create(pod, p, c), log: filepath.Join(p.GetLogDirectory(), c.GetLogPath())}
	n.StartContainer(f.id)
	return f
}

// after returns when the log has at least so many bytes.
func (f *flood) after(size int64) {
	f.t.Helper()
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		info, err := os.Stat(f.log)
		if err == nil && info.Size() >= size {
			return
		}
		if time.Now().After(deadline) {
			f.t.Fatalf("the log has not reached %d bytes: %v, %v", size, info, err)
		}
	}
}

// pid is the container's first process on the host, as a verbose status shows it.
func (f *flood) pid(t *testing.T) string {
	t.Helper()
	r, err := f.node.Runtime.ContainerStatus(t.Context(), &cri.ContainerStatusRequest{ContainerId: f.id, Verbose: true}, wait)
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`"pid": ?(\d+)`).FindStringSubmatch(r.GetInfo()["info"])
	if m == nil {
		t.Fatalf("no pid in %v", r.GetInfo())
	}
	return m[1]
}

// read checks the log: every line in the CRI's format, every number in order. It
// returns how many lines are whole and how many are the rest of one.
func (f *flood) read(t *testing.T) (whole, torn int) {
	t.Helper()
	file, err := os.Open(f.log)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	format := regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}(?:Z|[+-]\d\d:\d\d) stdout ([FP]) `)
	last := -1
	var line []byte
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		head := format.FindSubmatch(lines.Bytes())
		if head == nil {
			t.Fatalf("not in the CRI's format: %.200q", lines.Bytes())
		}
		line = append(line, lines.Bytes()[len(head[0]):]...)
		if string(head[1]) == "P" {
			continue
		}
		var number int
		if _, err := fmt.Sscanf(string(line), "%09d ", &number); err == nil && len(line) == outputLine-1 && bytes.Count(line, []byte("x")) == outputLine-11 {
			if number <= last {
				t.Fatalf("line %d comes after line %d", number, last)
			}
			last = number
			whole++
		} else {
			torn++
		}
		line = line[:0]
	}
	if len(line) > 0 {
		torn++
	}
	return whole, torn
}

// renewMonitor kills the monitor and returns when the daemon has started another.
func (n *Node) renewMonitor(t *testing.T) {
	t.Helper()
	old := n.MonitorPid()
	if err := unix.Kill(old, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if pid, err := n.Paths.MonitorPid(); err == nil && pid != old {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("no monitor is started")
		}
	}
}

// TestExitWithNobodyThere lets a container exit while neither daemon nor monitor runs:
// its exit code is said to be unknown, not made up. In a virtual machine the guest keeps it.
func TestExitWithNobodyThere(t *testing.T) {
	n := Start(t)
	n.Pull(images.Busybox)
	p := n.PodConfig()
	id := n.Run(n.RunPod(p), p, "sh", "-c", "sleep 1; exit 5")
	n.KillDaemon()
	n.KillMonitor()
	time.Sleep(1500 * time.Millisecond)
	n.StartDaemon()
	s := n.Exited(id, 10*time.Second)
	code, reason := int32(-1), "Unknown"
	if InVMs() {
		code, reason = 5, "Error"
	}
	if s.GetExitCode() != code || s.GetReason() != reason || (s.GetMessage() == "") != InVMs() {
		t.Errorf("exit code %d (%s: %q), want %d (%s)", s.GetExitCode(), s.GetReason(), s.GetMessage(), code, reason)
	}
}

// TestExitWithoutMonitor lets a container exit while the monitor is dead and a daemon
// lives, which kept what is needed to learn the code.
func TestExitWithoutMonitor(t *testing.T) {
	n := Start(t)
	n.Pull(images.Busybox)
	p := n.PodConfig()
	id := n.Run(n.RunPod(p), p, "sh", "-c", "sleep 0.2; exit 5")
	for range 8 { // the exit falls among the deaths
		n.renewMonitor(t)
	}
	s := n.Exited(id, 10*time.Second)
	if s.GetExitCode() != 5 {
		t.Errorf("exit code %d (%s), want 5", s.GetExitCode(), s.GetReason())
	}
}

// upgradeMonitor sends SIGHUP to the monitor and returns when its program was executed
// anew, as its log shows.
func (n *Node) upgradeMonitor(t *testing.T) {
	t.Helper()
	served := func() int {
		text, err := os.ReadFile(filepath.Join(n.Paths.State, "monitor.log"))
		if err != nil {
			t.Fatal(err)
		}
		return bytes.Count(text, []byte("monitor serves"))
	}
	before := served()
	if err := unix.Kill(n.MonitorPid(), unix.SIGHUP); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(15 * time.Second); served() == before; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the monitor is not executed anew")
		}
	}
}
