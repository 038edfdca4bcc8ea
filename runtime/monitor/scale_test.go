package monitor

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/oci"
)

const idle = "3600000" // ms

func descriptors(t testing.TB, pid int) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/" + strconv.Itoa(pid) + "/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// memory returns RSS and PSS in KiB.
func memory(t testing.TB, pid int) (rss, pss int) {
	t.Helper()
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/smaps_rollup")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		switch f[0] {
		case "Rss:":
			rss, _ = strconv.Atoi(f[1])
		case "Pss:":
			pss, _ = strconv.Atoi(f[1])
		}
	}
	return rss, pss
}

// crowd runs containers with open input, each with somebody who waits for it, checks
// that the monitor holds at most six descriptors for each and returns how many it held
// before.
func crowd(t *testing.T, n *node, containers int) (before int) {
	t.Helper()
	// The first has the monitor open the OCI runtime, for all of them.
	if err := n.client.Delete(t.Context(), n.run([]string{"sleep", idle}, nil).ID); err != nil {
		t.Fatal(err)
	}
	before = descriptors(t, n.process.Process.Pid)
	for range containers {
		req := n.run([]string{"sleep", idle}, func(_ *specs.Spec, r *CreateRequest) { r.Stdin, r.StdinOnce = true, true })
		go n.client.Wait(t.Context(), req.ID)
	}
	// Connections of calls that have just ended may linger for a moment, now or when it
	// was counted before.
	n.eventually("six descriptors a container", func() bool {
		more := descriptors(t, n.process.Process.Pid) - before
		return more <= 6*containers && more >= 6*containers-2
	})
	return before
}

// disperse deletes what crowd made.
func disperse(t *testing.T, n *node, containers, before int) {
	t.Helper()
	entries, err := n.client.List(t.Context())
	if err != nil || len(entries) != containers {
		t.Fatalf("%d entries, %v", len(entries), err)
	}
	for _, e := range entries {
		if err := n.client.Delete(t.Context(), e.ID); err != nil {
			t.Fatal(err)
		}
	}
	n.eventually("all descriptors are back", func() bool { return descriptors(t, n.process.Process.Pid) <= before+2 })
}

func TestDescriptorsPerContainer(t *testing.T) {
	const containers = 50
	rt, err := oci.Find()
	if err != nil {
		t.Fatal(err)
	}
	n := newNode(t, rt)
	disperse(t, n, containers, crowd(t, n, containers))
}

// A full node: what the monitor costs is bounded, also after it was replaced.
func TestFiveHundredContainers(t *testing.T) {
	if os.Getenv("CRICKET_TEST_LONG") == "" {
		t.Skip("takes half a minute; CRICKET_TEST_LONG=1 runs it")
	}
	const (
		containers = 500
		maxRSS     = 40 << 10 // KiB; it was 22 when this was written
	)
	rt, err := oci.Find()
	if err != nil {
		t.Fatal(err)
	}
	inherit(t)
	n := newNode(t, rt)
	report := func(when string) {
		rss, pss := memory(t, n.process.Process.Pid)
		t.Logf("%s: %d descriptors, RSS %d KiB, PSS %d KiB", when, descriptors(t, n.process.Process.Pid), rss, pss)
		if rss > maxRSS {
			t.Errorf("%s the monitor has %d KiB, want at most %d", when, rss, maxRSS)
		}
	}
	report("empty")
	before := crowd(t, n, containers)
	report("500 containers, each waited for")
	n.kill()
	n.start()
	report("500 containers, adopted")
	disperse(t, n, containers, before)
	report("all deleted")
}

// BenchmarkIdleContainers measures what supervision costs: one monitor with many
// containers, and monitors with one each.
func BenchmarkIdleContainers(b *testing.B) {
	rt, err := oci.Find()
	if err != nil {
		b.Fatal(err)
	}
	const containers = 30
	report := func(b *testing.B, rss, pss int) {
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(float64(rss)/containers, "KiB-RSS/container")
		b.ReportMetric(float64(pss)/containers, "KiB-PSS/container")
	}
	b.Run("one", func(b *testing.B) {
		for range b.N {
			n := newNode(b, rt)
			_, empty := memory(b, n.process.Process.Pid)
			b.ReportMetric(float64(empty), "KiB-PSS-empty")
			for range containers {
				n.run([]string{"sleep", idle}, nil)
			}
			rss, pss := memory(b, n.process.Process.Pid)
			report(b, rss, pss)
		}
	})
	b.Run("each", func(b *testing.B) {
		for range b.N {
			var rss, pss int
			var all []*node
			for range containers {
				n := newNode(b, rt)
				n.run([]string{"sleep", idle}, nil)
				all = append(all, n)
			}
			for _, n := range all {
				r, p := memory(b, n.process.Process.Pid)
				rss, pss = rss+r, pss+p
			}
			report(b, rss, pss)
		}
	})
}

func holdsListed(entries []Entry, ids ...string) bool {
	for _, id := range ids {
		if !slices.ContainsFunc(entries, func(e Entry) bool { return e.Kind == KindHold && e.ID == id }) {
			return false
		}
	}
	return true
}

func TestHoldKeepsNamespaces(t *testing.T) {
	rt, err := oci.Find()
	if err != nil {
		t.Fatal(err)
	}
	n := newNode(t, rt)
	maps := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 200000, Size: 65536}}
	pid, err := n.client.Hold(t.Context(), HoldRequest{ID: "pod", UIDMappings: maps, GIDMappings: maps, Namespaces: []specs.LinuxNamespaceType{
		specs.UserNamespace, specs.PIDNamespace, specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace}})
	if err != nil {
		t.Fatal(err)
	}
	for _, ns := range []string{"user", "pid", "net", "ipc", "uts"} {
		own, _ := os.Readlink("/proc/self/ns/" + ns)
		held, err := os.Readlink("/proc/" + strconv.Itoa(pid) + "/ns/" + ns)
		if err != nil || held == own {
			t.Errorf("%s namespace = %q, %v: not a new one", ns, held, err)
		}
	}
	rss, pss := memory(t, pid)
	t.Logf("pod init: RSS %d KiB, PSS %d KiB", rss, pss)
	// A container in the held PID namespace: its orphans are reaped, and all end with it.
	shared, err := n.client.Hold(t.Context(), HoldRequest{ID: "pids", Namespaces: []specs.LinuxNamespaceType{specs.PIDNamespace}})
	if err != nil {
		t.Fatal(err)
	}
	req := n.run([]string{"family"}, func(s *specs.Spec, r *CreateRequest) {
		s.Linux.Namespaces[0].Path = "/proc/" + strconv.Itoa(shared) + "/ns/pid"
		r.KillAll = true
	})
	n.kill()
	n.start() // holds are adopted too
	entries, err := n.client.List(t.Context())
	if err != nil || len(entries) != 3 || !holdsListed(entries, "pod", "pids") {
		t.Errorf("list: %v, %v", entries, err)
	}
	for range 2 {
		for _, id := range []string{"pod", "pids"} {
			if err := n.client.Release(t.Context(), id); err != nil {
				t.Errorf("release: %v", err)
			}
		}
	}
	if exit := n.wait(req.ID); exit.Code == 0 {
		t.Errorf("exit = %+v: the namespace's end kills", exit)
	}
	if st, err := readProc(pid); err == nil && st.state != 'Z' {
		t.Error("the held process is still there")
	}
}

func TestKillAllEndsTheRest(t *testing.T) {
	eachRuntime(t, func(t *testing.T, rt oci.Runtime) {
		n := newNode(t, rt)
		req := n.run([]string{"leave"}, func(s *specs.Spec, r *CreateRequest) {
			s.Linux.Namespaces = s.Linux.Namespaces[1:]
			r.KillAll = true
		})
		n.wait(req.ID)
		st, err := n.client.State(t.Context(), req.ID)
		if err != nil || st.Phase != runtime.Exited {
			t.Fatalf("state = %+v, %v", st, err)
		}
		b, err := os.ReadFile("/sys/fs/cgroup/pids" + programs.cgroup + "/" + req.ID + "/cgroup.procs")
		if err == nil && len(b) > 0 {
			t.Errorf("still in the cgroup: %s", b)
		}
	})
}
