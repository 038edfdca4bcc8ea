package monitor

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime/oci"
)

// openFiles is the soft limit of a process on open files.
func openFiles(t *testing.T, pid int) string {
	t.Helper()
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/limits")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "Max open files"); ok {
			return strings.Fields(rest)[0]
		}
	}
	t.Fatal("no limit on open files")
	return ""
}

// TestContainersKeepTheSoftLimit: the monitor needs many descriptors and raises its own
// soft limit; containers get the one that it was started with, after an upgrade too.
// Programs that walk all possible descriptors take for ever under a high one.
func TestContainersKeepTheSoftLimit(t *testing.T) {
	rt, err := oci.Find("crun") // runc is a Go program too
	if err != nil {
		t.Fatal(err)
	}
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 1024, Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	n := newNode(t, rt)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	if got := openFiles(t, n.process.Process.Pid); got == "1024" {
		t.Error("the monitor did not raise its own limit")
	}
	check := func(when string) {
		// Not started: the payload, a Go program, would raise the limit itself.
		req := n.create([]string{"sleep", idle}, nil)
		st, err := n.client.State(t.Context(), req.ID)
		if err != nil {
			t.Fatal(err)
		}
		if got := openFiles(t, st.Pid); got != "1024" {
			t.Errorf("%s: soft limit of a container = %s, want 1024", when, got)
		}
	}
	check("at first")
	if err := n.client.Reexec(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.eventually("the new program answers", func() bool {
		env, _ := os.ReadFile("/proc/" + strconv.Itoa(n.process.Process.Pid) + "/environ")
		_, err := n.client.Hello(t.Context())
		return strings.Contains(string(env), handoffEnv) && err == nil
	})
	check("after an upgrade")
}
