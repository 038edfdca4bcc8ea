package cni_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/sandbox/cni"
	"github.com/cricket-cri/cricket/sandbox/netns"
)

const conflist = `{"cniVersion":"1.0.0","name":"testnet","plugins":[
 {"type":"bridge","bridge":"ckt0","isGateway":true,"ipMasq":false,"hairpinMode":true,
  "ipam":{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":"fd00:99::/64"}],[{"subnet":"10.99.7.0/24"}]]}},
 {"type":"portmap","capabilities":{"portMappings":true},"snat":true}]}`

// node is a network of its own, with a configuration of its own.
type node struct {
	network             *cni.Network
	conf, leases, state string
}

// newNode moves the test into a network and a mount namespace, on a thread that the
// test keeps: nothing that the plugins do reaches the host.
func newNode(t *testing.T) *node {
	t.Helper()
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	// /proc/sys/net and /sys/class/net are of the namespace of whoever mounted them.
	if err := unix.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	dir := t.TempDir()
	n := &node{conf: filepath.Join(dir, "net.d"), leases: filepath.Join(dir, "leases"), state: dir}
	if err := os.Mkdir(n.conf, 0o755); err != nil {
		t.Fatal(err)
	}
	n.network = n.open(t)
	return n
}

func (n *node) open(t *testing.T) *cni.Network {
	t.Helper()
	network, err := cni.Open(cni.Options{
		ConfDir: n.conf, BinDirs: []string{"/nonexistent", "/usr/lib/cni"}, Root: filepath.Join(n.state, "cni"),
	})
	if err != nil {
		t.Fatal(err)
	}
	return network
}

func (n *node) write(t *testing.T, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(n.conf, name), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (n *node) configure(t *testing.T) {
	t.Helper()
	n.write(t, "10-test.conflist", fmt.Sprintf(conflist, n.leases))
}

// leaseCount counts addresses that are not free.
func (n *node) leaseCount(t *testing.T) int {
	t.Helper()
	files, _ := filepath.Glob(filepath.Join(n.leases, "testnet", "[0-9a-f]*[.:]*"))
	return len(files)
}

func (n *node) pod(t *testing.T, id string) cni.Pod {
	t.Helper()
	d := netns.Dir(filepath.Join(n.state, "ns", id))
	// The pin must lie in this thread's mount namespace, whence no helper thread.
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		t.Fatal(err)
	}
	pin := d.Path(specs.NetworkNamespace)
	if out, err := exec.Command("unshare", "--net="+touch(t, pin), "ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() {
		if err := d.Unpin(); err != nil {
			t.Error(err)
		}
	})
	return cni.Pod{ID: id, NetNS: pin, Name: "p", Namespace: "default", UID: "u"}
}

func touch(t *testing.T, path string) string {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestAddAndDelDualStackWithHostPort(t *testing.T) {
	n := newNode(t)
	n.configure(t)
	ctx := context.Background()
	if err := n.network.Status(ctx); err != nil {
		t.Fatal(err)
	}
	pod := n.pod(t, "aa01")
	pod.Ports = []cni.Port{{HostPort: 18080, ContainerPort: 80, Protocol: "tcp"}, {ContainerPort: 81, Protocol: "tcp"}}
	ips, err := n.network.Add(ctx, pod)
	if err != nil {
		t.Fatal(err)
	}
	if len(ips) != 2 || !ips[0].Is4() || !ips[1].Is6() {
		t.Errorf("want an IPv4 and an IPv6 address in this order, got %v", ips)
	}
	out, err := exec.Command("nsenter", "--net="+pod.NetNS, "ip", "-o", "addr", "show", "eth0").CombinedOutput()
	if err != nil || !strings.Contains(string(out), ips[0].String()) {
		t.Errorf("eth0 lacks %s: %v: %s", ips[0], err, out)
	}
	if rules, _ := exec.Command("iptables-save", "-t", "nat").Output(); !strings.Contains(string(rules), "18080") {
		t.Errorf("no rule for the host port: %s", rules)
	}
	if ids, _ := n.network.List(); len(ids) != 1 {
		t.Errorf("ledger: %v", ids)
	}
	// The configuration may be gone by the time of the DEL.
	if err := os.RemoveAll(n.conf); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := n.network.Del(ctx, pod.ID); err != nil {
			t.Fatal(err)
		}
	}
	if n.leaseCount(t) != 0 {
		t.Error("an address is still leased")
	}
	if rules, _ := exec.Command("iptables-save", "-t", "nat").Output(); strings.Contains(string(rules), "18080") {
		t.Errorf("the host port's rule is still there: %s", rules)
	}
	if ids, _ := n.network.List(); len(ids) != 0 {
		t.Errorf("ledger: %v", ids)
	}
	if cached, _ := os.ReadDir(filepath.Join(n.state, "cni", "cache", "results")); len(cached) != 0 {
		t.Errorf("result is still cached: %v", cached)
	}
}

func TestDelAfterACrashAndATornRecord(t *testing.T) {
	n := newNode(t)
	n.configure(t)
	ctx := context.Background()
	var pins []string
	for _, id := range []string{"aa01", "aa02", "aa03"} {
		pod := n.pod(t, id)
		if _, err := n.network.Add(ctx, pod); err != nil {
			t.Fatal(err)
		}
		pins = append(pins, pod.NetNS)
	}
	// A reboot takes the namespaces; a power failure may also tear a record.
	for _, pin := range pins[:2] {
		if err := unix.Unmount(pin, unix.MNT_DETACH); err != nil {
			t.Fatal(err)
		}
	}
	torn := filepath.Join(n.state, "cni", "attachments", "aa02.json")
	if err := os.WriteFile(torn, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	again := n.open(t)
	if ids, _ := again.List(); len(ids) != 3 {
		t.Errorf("ledger after the crash: %v", ids)
	}
	for _, id := range []string{"aa01", "aa02"} {
		if err := again.Del(ctx, id); err != nil {
			t.Fatal(err)
		}
	}
	if ids, _ := again.List(); len(ids) != 1 || ids[0] != "aa03" {
		t.Errorf("ledger: %v", ids)
	}
	if got := n.leaseCount(t); got != 2 {
		t.Errorf("%d addresses are leased, want the two of aa03", got)
	}
}

func TestAddThatFailsLeavesNothing(t *testing.T) {
	n := newNode(t)
	// The second plugin refuses, after the first has leased addresses.
	broken := strings.Replace(fmt.Sprintf(conflist, n.leases), `"portmap"`, `"tuning","sysctl":{"net.none.such":"1"}`, 1)
	n.write(t, "10-test.conflist", broken)
	pod := n.pod(t, "aa01")
	if _, err := n.network.Add(context.Background(), pod); !errdefs.IsInternal(err) {
		t.Errorf("got %v", err)
	}
	if n.leaseCount(t) != 0 {
		t.Error("an address is still leased")
	}
	if ids, _ := n.network.List(); len(ids) != 0 {
		t.Errorf("ledger: %v", ids)
	}
}

func TestStatusFollowsTheDirectory(t *testing.T) {
	n := newNode(t)
	expect := func(want string) {
		t.Helper()
		err := n.network.Status(context.Background())
		if want == "" && err != nil || want != "" && (!errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), want)) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	expect("no network configuration in")
	n.write(t, "05-bad.conflist", `{"name":`)
	expect("05-bad.conflist")
	n.write(t, "20-missing.conf", `{"cniVersion":"1.0.0","name":"x","type":"nosuchplugin"}`)
	expect(`plugin "nosuchplugin" of network "x" is not installed`)
	n.configure(t)
	expect("")
	if err := os.Remove(filepath.Join(n.conf, "10-test.conflist")); err != nil {
		t.Fatal(err)
	}
	expect("nosuchplugin")
}
