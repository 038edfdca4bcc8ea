package integration

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/test/images"
)

// ready is the condition NetworkReady.
func (n *Node) networkReady() *cri.RuntimeCondition {
	n.t.Helper()
	r, err := n.Runtime.Status(n.t.Context(), &cri.StatusRequest{})
	if err != nil {
		n.t.Fatal(err)
	}
	for _, c := range r.GetStatus().GetConditions() {
		if c.GetType() == "NetworkReady" {
			return c
		}
	}
	n.t.Fatal("there is no condition NetworkReady")
	return nil
}

// TestNetworkReady takes the configuration away and brings it back.
func TestNetworkReady(t *testing.T) {
	n := Start(t)
	old := n.PodConfig()
	oldPod := n.RunPod(old)
	name := filepath.Join(n.Paths.CNIConf, "10-test.conflist")
	good, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if c := n.networkReady(); !c.GetStatus() {
		t.Fatalf("the network is not ready: %v", c)
	}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for what, take := range map[string]func(){
		"removed":   func() { os.Remove(name) },
		"no JSON":   func() { write("{") },
		"no plugin": func() { write(`{"cniVersion":"1.0.0","name":"x","plugins":[{"type":"no-such-plugin"}]}`) },
		"empty":     func() { write("") },
	} {
		take()
		Within(t, time.Second, "the network is not ready: "+what, func() bool { return !n.networkReady().GetStatus() })
		if c := n.networkReady(); c.GetReason() == "" || c.GetMessage() == "" {
			t.Errorf("%s: no reason: %v", what, c)
		}
		_, err := n.Runtime.RunPodSandbox(t.Context(), &cri.RunPodSandboxRequest{Config: n.PodConfig()})
		if what != "removed" {
			WantCode(t, err, codes.Unavailable, codes.FailedPrecondition)
		} else {
			WantCode(t, err, codes.Unavailable, codes.FailedPrecondition)
			if !partApplies(t, "host") {
				write(string(good))
				continue
			}
			host := n.PodConfig() // needs no network of its own
			host.Linux.SecurityContext.NamespaceOptions.Network = cri.NamespaceMode_NODE
			n.RunPod(host)
		}
		write(string(good))
		Within(t, time.Second, "the network is ready again after "+what, func() bool { return n.networkReady().GetStatus() })
	}
	os.Remove(name) // a pod goes without the configuration that it came with
	Within(t, time.Second, "the network is not ready", func() bool { return !n.networkReady().GetStatus() })
	if _, err := n.Runtime.StopPodSandbox(t.Context(), &cri.StopPodSandboxRequest{PodSandboxId: oldPod}); err != nil {
		t.Errorf("stop a pod without configuration: %v", err)
	}
	write(string(good))
	Within(t, time.Second, "the network is ready", func() bool { return n.networkReady().GetStatus() })
	n.RunPod(n.PodConfig())
}

const dualStack = `{
  "cniVersion": "1.0.0", "name": "dual",
  "plugins": [
    {"type": "bridge", "bridge": "cricket0", "isGateway": true, "ipMasq": false,
     "ipam": {"type": "host-local", "dataDir": %q,
       "ranges": [[{"subnet": "10.89.0.0/16"}], [{"subnet": "fd00:89::/64"}]],
       "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}},
    {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true}
  ]
}`

// TestDualStack: both addresses are the pod's, and in its status.
func TestDualStack(t *testing.T) {
	if _, err := os.Stat("/proc/sys/net/ipv6"); err != nil {
		t.Skip("this kernel has no IPv6")
	}
	n := Start(t)
	n.Pull(images.Busybox)
	text := fmt.Sprintf(dualStack, n.Paths.Leases)
	if err := os.WriteFile(filepath.Join(n.Paths.CNIConf, "05-dual.conflist"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second) // it is taken up
	p := n.PodConfig()
	pod := n.RunPod(p)
	r, err := n.Runtime.PodSandboxStatus(t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: pod})
	if err != nil {
		t.Fatal(err)
	}
	network := r.GetStatus().GetNetwork()
	all := []string{network.GetIp()}
	for _, ip := range network.GetAdditionalIps() {
		all = append(all, ip.GetIp())
	}
	if len(all) != 2 || !netip.MustParseAddr(all[0]).Is4() || !netip.MustParseAddr(all[1]).Is6() {
		t.Fatalf("the pod's addresses are %v", all)
	}
	id := n.Run(pod, p, "tcpsvd", "-E", "::", "8080", "echo", "hello")
	out := n.Exec(id, "ip", "addr", "show", "eth0")
	for _, ip := range all {
		if !strings.Contains(out, ip) {
			t.Errorf("%s is not on\n%s", ip, out)
		}
	}
	Within(t, 5*time.Second, "the server listens", func() bool { return strings.Contains(n.Exec(id, "netstat", "-ltn"), ":8080") })
	for _, ip := range all {
		if got := answerOf(t, net.JoinHostPort(ip, "8080")); got != "hello\n" {
			t.Errorf("%s answers %q", ip, got)
		}
	}
	t.Cleanup(func() { // the bridge has got an address that it had not before
		link, err := netlink.LinkByName("cricket0")
		if err != nil {
			return
		}
		addrs, _ := netlink.AddrList(link, netlink.FAMILY_V6)
		for _, a := range addrs {
			if !a.IP.IsLinkLocalUnicast() {
				netlink.AddrDel(link, &a)
			}
		}
	})
}

// answerOf connects, and again for some seconds, and returns what it is sent.
func answerOf(t *testing.T, address string) string {
	t.Helper()
	var last error
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		conn, err := net.DialTimeout("tcp", address, time.Second)
		if err != nil {
			last = err
			continue
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(5 * time.Second))
		data, err := io.ReadAll(conn)
		if err != nil {
			last = err
			continue
		}
		return string(data)
	}
	return fmt.Sprint(last)
}

// TestHostPorts: a port of the node leads to the pod, and to nobody when it is gone.
func TestHostPorts(t *testing.T) {
	n := Start(t)
	n.Pull(images.Busybox)
	p := n.PodConfig()
	p.PortMappings = []*cri.PortMapping{{Protocol: cri.Protocol_TCP, ContainerPort: 8080, HostPort: 18081}}
	pod := n.RunPod(p)
	n.Run(pod, p, "tcpsvd", "-E", "0.0.0.0", "8080", "echo", "hello")
	for _, host := range []string{"10.89.0.1", "127.0.0.1"} {
		if got := answerOf(t, host+":18081"); got != "hello\n" {
			t.Errorf("the port on %s answers %q", host, got)
		}
	}
	if _, err := n.Runtime.StopPodSandbox(t.Context(), &cri.StopPodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Fatal(err)
	}
	if conn, err := net.DialTimeout("tcp", "10.89.0.1:18081", time.Second); err == nil {
		conn.Close()
		t.Error("the port of a stopped pod is open")
	}
	again := n.PodConfig() // the port is free
	again.PortMappings = p.PortMappings
	n.RunPod(again)
}
