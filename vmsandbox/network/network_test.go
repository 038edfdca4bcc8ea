package network

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/sandbox/netns"
	"github.com/cricket-cri/cricket/vmsandbox/agent"
)

// peer is the far end of the pod's interface, in the same namespace for the test.
const peer = "far0"

// pod makes a namespace with a tap and an interface as a plugin leaves it.
func pod(t *testing.T) (path string, tap *os.File) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "netns")
	tap, err := MakeTap(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		tap.Close()
		if err := Remove(path); err != nil {
			t.Error(err)
		}
		if err := Remove(path); err != nil {
			t.Error("second removal:", err)
		}
	})
	inside(t, path, func() error {
		eth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0", MTU: 1400, HardwareAddr: mac("02:00:00:00:00:05")}, PeerName: peer}
		if err := netlink.LinkAdd(eth); err != nil {
			return err
		}
		far, err := netlink.LinkByName(peer)
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetUp(far), netlink.LinkSetUp(eth), addresses(eth), gateways(eth))
	})
	return path, tap
}

func addresses(eth netlink.Link) error {
	var errs []error
	for _, text := range []string{"10.9.0.5/24", "fd00:9::5/64"} {
		a, _ := netlink.ParseAddr(text)
		a.Flags = unix.IFA_F_NODAD
		errs = append(errs, netlink.AddrAdd(eth, a))
	}
	return errors.Join(errs...)
}

func gateways(eth netlink.Link) error {
	i := eth.Attrs().Index
	far := &net.IPNet{IP: net.ParseIP("169.254.1.1").To4(), Mask: net.CIDRMask(32, 32)}
	return errors.Join(
		netlink.RouteAdd(&netlink.Route{LinkIndex: i, Dst: far, Scope: netlink.SCOPE_LINK}),
		netlink.RouteAdd(&netlink.Route{LinkIndex: i, Gw: net.ParseIP("169.254.1.1").To4()}),
		netlink.RouteAdd(&netlink.Route{LinkIndex: i, Gw: net.ParseIP("fd00:9::1"), Priority: 7}),
		netlink.NeighAdd(&netlink.Neigh{LinkIndex: i, State: netlink.NUD_PERMANENT, IP: net.ParseIP("169.254.1.1").To4(), HardwareAddr: mac("ee:ee:ee:ee:ee:ee")}),
	)
}

func mac(text string) net.HardwareAddr {
	m, _ := net.ParseMAC(text)
	return m
}

func inside(t *testing.T, path string, f func() error) {
	t.Helper()
	if err := netns.Do(path, f); err != nil {
		t.Fatal(err)
	}
}

func TestConnectReadsWhatThePluginsGave(t *testing.T) {
	path, _ := pod(t)
	got, err := Connect(path, "eth0")
	if err != nil {
		t.Fatal(err)
	}
	want := agent.Network{
		Name: "eth0", MAC: "02:00:00:00:00:05", MTU: 1400,
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.9.0.5/24"), netip.MustParsePrefix("fd00:9::5/64")},
		Routes: []agent.Route{
			{Destination: netip.MustParsePrefix("169.254.1.1/32")},
			{Destination: netip.MustParsePrefix("0.0.0.0/0"), Gateway: netip.MustParseAddr("169.254.1.1")},
			{Destination: netip.MustParsePrefix("::/0"), Gateway: netip.MustParseAddr("fd00:9::1"), Metric: 7},
		},
		Neighbours: []agent.Neighbour{{IP: netip.MustParseAddr("169.254.1.1"), MAC: "ee:ee:ee:ee:ee:ee"}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	again, err := Connect(path, "eth0")
	if err != nil || !reflect.DeepEqual(again, want) {
		t.Errorf("second time: %+v, %v", again, err)
	}
}

func TestFramesCross(t *testing.T) {
	path, tap := pod(t)
	if _, err := Connect(path, "eth0"); err != nil {
		t.Fatal(err)
	}
	far := packets(t, path)
	frame := append(append(append([]byte{}, mac("ff:ff:ff:ff:ff:ff")...), mac("02:00:00:00:00:05")...), 0x88, 0xb5)
	frame = append(frame, "towards the host, and long enough for a frame of Ethernet ......"...)
	header := make([]byte, 10) // virtio_net_hdr
	if _, err := tap.Write(append(header, frame...)); err != nil {
		t.Fatal(err)
	}
	expect(t, "host", frame, func(b []byte) (int, error) { return unix.Read(far, b) })

	back := bytes.Replace(frame, []byte("towards the host"), []byte("towards a guest!"), 1)
	if _, err := unix.Write(far, back); err != nil {
		t.Fatal(err)
	}
	if err := tap.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	expect(t, "guest", back, func(b []byte) (int, error) {
		n, err := tap.Read(b)
		if n < len(header) {
			return 0, err
		}
		return copy(b, b[len(header):n]), err
	})
}

// expect reads until frame arrives; the kernel sends frames of its own.
func expect(t *testing.T, at string, frame []byte, read func([]byte) (int, error)) {
	t.Helper()
	buf := make([]byte, 2048)
	for range 100 {
		n, err := read(buf)
		if err != nil {
			t.Fatalf("at the %s: %v", at, err)
		}
		if bytes.Equal(buf[:n], frame) {
			return
		}
	}
	t.Errorf("the frame did not arrive at the %s", at)
}

// packets is a raw socket on the far end.
func packets(t *testing.T, path string) (fd int) {
	inside(t, path, func() (err error) {
		link, err := netlink.LinkByName(peer)
		if err != nil {
			return err
		}
		all := uint16(unix.ETH_P_ALL>>8 | unix.ETH_P_ALL<<8)
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(all)); err != nil {
			return err
		}
		return errors.Join(unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: link.Attrs().Index, Protocol: all}),
			unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}))
	})
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func TestSecondInterfaceIsRefused(t *testing.T) {
	path, _ := pod(t)
	inside(t, path, func() error {
		second := &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: "net1"}}
		if err := netlink.LinkAdd(second); err != nil {
			// Without dummies the far end is as good.
			second.Name = peer
		}
		link, err := netlink.LinkByName(second.Name)
		if err != nil {
			return err
		}
		a, _ := netlink.ParseAddr("10.8.0.5/24")
		return errors.Join(netlink.LinkSetUp(link), netlink.AddrAdd(link, a))
	})
	if _, err := Connect(path, "eth0"); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("err = %v", err)
	}
}

func TestMakeTapLeavesNothingBehind(t *testing.T) {
	path := filepath.Join(t.TempDir(), "netns")
	tap, err := MakeTap(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = Remove(path) }()
	if _, err := MakeTap(path); err == nil {
		t.Error("a second tap of the same name was made")
	}
	if !netns.IsNamespace(path) {
		t.Error("the namespace is gone with the second tap")
	}
	tap.Close()
	inside(t, path, func() error {
		if _, err := netlink.LinkByName(Tap); err == nil {
			t.Error("the tap device outlives its file")
		}
		return nil
	})
}
