package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/test/images"
)

// syncs are system calls that return when a disk has written.
var syncs = regexp.MustCompile(`\b(fsync|fdatasync|sync|syncfs|sync_file_range|msync)\(|\bO_D?SYNC\b`)

// TestStartWaitsForNoDisk traces the daemon, the monitor and all that they start while a pod
// starts: none of them has a disk write what it could write later.
func TestStartWaitsForNoDisk(t *testing.T) {
	n := Start(t)
	n.Pull(images.Busybox)
	pod, _, _ := n.Sleeper() // the first one mounts the image, and starts the monitor
	n.removePod(t, pod)
	trace := filepath.Join(t.TempDir(), "trace")
	c := exec.Command("strace", "-f", "-y", "-q", "-o", trace, "-e", "trace=execve,fsync,fdatasync,sync,syncfs,sync_file_range,msync,openat",
		"-p", strconv.Itoa(n.daemon.Pid()), "-p", strconv.Itoa(n.MonitorPid()))
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	Within(t, settle, "strace has attached", func() bool { return traced(n.daemon.Pid()) && traced(n.MonitorPid()) })
	n.Sleeper()
	if err := c.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = c.Wait() // it ends by the signal
	text, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	runtimes := 0
	for line := range strings.Lines(string(text)) {
		switch {
		case strings.Contains(line, "execve(") && strings.Contains(line, `"create"`):
			runtimes++
		case strings.Contains(line, "/journal"): // written once a second, and no call waits for it
		case syncs.MatchString(line):
			t.Errorf("a start has the disk write: %s", line)
		}
	}
	if runtimes == 0 {
		t.Errorf("the trace, of %d bytes, shows no container being created", len(text))
	}
}

func traced(pid int) bool {
	status, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	return err == nil && strings.Contains(string(status), "TracerPid:") && !strings.Contains(string(status), "TracerPid:\t0\n")
}
