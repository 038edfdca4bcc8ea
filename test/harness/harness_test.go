package harness

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestMain runs the tests in a node.
func TestMain(m *testing.M) {
	code, done, err := Isolate()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	if !done && err == nil {
		code = m.Run()
	}
	os.Exit(code)
}

func TestNodeIsPrivate(t *testing.T) {
	if os.Getppid() != 1 {
		t.Errorf("the parent is process %d, want the node's first", os.Getppid())
	}
	links, err := netlink.LinkList()
	if err != nil || len(links) != 1 {
		t.Errorf("%d links (%v), want lo alone", len(links), err)
	}
	if l, err := net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Errorf("listen on loopback: %v", err)
	} else {
		l.Close()
	}
	data, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) == 3 && f[2] != "/" && f[2] != "/init" {
			t.Errorf("in cgroup %s, want the node's own as the root", line)
		}
	}
	for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/memory"} {
		if _, err := os.Stat(filepath.Join(dir, "cgroup.procs")); err == nil {
			return
		}
	}
	t.Error("no cgroup hierarchy is mounted")
}

// TestOrphansAreReaped leaves an orphan behind, which only the first process can reap.
func TestOrphansAreReaped(t *testing.T) {
	before, err := Observe()
	if err != nil {
		t.Fatal(err)
	}
	if err := exec.Command("sh", "-c", "true & exec true").Run(); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		after, err := Observe()
		if err != nil {
			t.Fatal(err)
		}
		if len(before.Leaks(after)) == 0 {
			return
		}
	}
	t.Error("an orphan that ended is still there")
}

func TestLeaksAreSeen(t *testing.T) {
	before, err := Observe()
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", "/mnt", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount("/mnt", unix.MNT_DETACH)
	sleep := exec.Command("sleep", "100")
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		sleep.Process.Kill()
		sleep.Wait()
	}()
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "leak0"}, PeerName: "leak1"}
	if err := netlink.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	defer netlink.LinkDel(veth)
	groups, err := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
	if err != nil || len(groups) == 0 {
		groups = []string{"/sys/fs/cgroup/cgroup.procs"}
	}
	group := filepath.Join(filepath.Dir(groups[0]), "leak")
	if err := os.Mkdir(group, 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(group)
	rule := []string{"-t", "nat", "POSTROUTING", "-s", "192.0.2.1", "-j", "ACCEPT"}
	iptables := func(op string) error {
		return exec.Command("iptables", append([]string{"-w", rule[0], rule[1], op}, rule[2:]...)...).Run()
	}
	if err := iptables("-A"); err != nil {
		t.Fatalf("add a rule: %v", err)
	}
	defer iptables("-D")
	after, err := Observe()
	if err != nil {
		t.Fatal(err)
	}
	leaks := []byte(strings.Join(before.Leaks(after), "\n"))
	for _, want := range []string{"mount /mnt tmpfs", "sleep 100", "link leak0", "cgroup " + group, "192.0.2.1"} {
		if !bytes.Contains(leaks, []byte(want)) {
			t.Errorf("%q is not among the leaks:\n%s", want, leaks)
		}
	}
	if got := after.Leaks(after); len(got) != 0 {
		t.Errorf("a snapshot has leaks against itself: %v", got)
	}
}

func TestLeasesAreFiles(t *testing.T) {
	dir := t.TempDir()
	before, err := Observe(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"10.89.0.2", "lock", "last_reserved_ip.0"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	after, err := Observe(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got := before.Leaks(after); len(got) != 1 || !strings.Contains(got[0], "10.89.0.2") {
		t.Errorf("leaks are %v, want the lease alone", got)
	}
}
