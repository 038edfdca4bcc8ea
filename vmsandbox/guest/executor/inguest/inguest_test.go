// Package inguest runs the executor's tests in a guest, with its kernel and nothing but
// cgroup v2.
package inguest

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/monitor"
	"github.com/cricket-cri/cricket/vmsandbox/agent"
	"github.com/cricket-cri/cricket/vmsandbox/guest/guesttest"
)

// TestInGuest runs them in a privileged container, whose containers lie beside it.
func TestInGuest(t *testing.T) {
	m := guesttest.Boot(t, guesttest.Config{Disks: map[string]string{"ro0": guesttest.Tests(t, map[string]string{"executor.test": ".."}, nil)}, MemoryMiB: 512})
	m.Mount(t, agent.Mount{Slot: "ro0", Target: agent.DirDisks + "/ro0", Type: "erofs", Options: []string{"ro"}})
	m.Mount(t, agent.Mount{Source: "tmpfs", Target: agent.DirVolumes + "/upper", Type: "tmpfs"})
	start(t, m, "tests", "/executor.test", "be-the-payload", "sleep")
	var times []time.Duration
	used := cpu(t, m.Pid)
	for i := range rounds {
		id := string(rune('a' + i))
		began := time.Now()
		start(t, m, id, "/executor.test", "be-the-payload", "sleep")
		times = append(times, time.Since(began))
		if err := m.Monitor.Delete(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(times)
	t.Logf("created and started, from the host: %v to %v, p50 %v; created, started and deleted with %v of CPU time", times[0], times[rounds-1], times[rounds/2], (cpu(t, m.Pid)-used)/rounds)
	var out bytes.Buffer
	// The stub's source stays on the host. All else has here what it needs.
	p := guesttest.Process("/executor.test", "-test.v", "-test.skip=^TestStub")
	if os.Getenv("CRICKET_TEST_LONG") != "" {
		p.Args = append(p.Args, "-test.bench=.", "-test.benchtime=50x")
	}
	exit, err := m.Monitor.Exec(t.Context(), "tests", monitor.ExecRequest{Process: *p, Timeout: 5 * time.Minute}, runtime.Streams{Stdout: &out, Stderr: &out})
	if err != nil || exit.Code != 0 || !strings.HasSuffix(out.String(), "PASS\n") || strings.Contains(out.String(), "--- SKIP") {
		t.Errorf("%+v, %v", exit, err)
	}
	t.Log(out.String())
}

const rounds = 20

// cpu is what a process has used.
func cpu(t *testing.T, pid int) time.Duration {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	var user, system time.Duration
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')'):]))
	if _, err := fmt.Sscan(fields[12]+" "+fields[13], &user, &system); err != nil {
		t.Fatal(err)
	}
	return (user + system) * 10 * time.Millisecond // ticks
}

func start(t *testing.T, m *guesttest.Machine, id string, args ...string) {
	t.Helper()
	m.StartPrivileged(t, id, agent.DirVolumes+"/upper", guesttest.Process(args...))
}
