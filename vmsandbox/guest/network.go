package guest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/vmsandbox/agent"
)

// loopbackUp turns the loopback interface on; the kernel gives it its addresses.
func loopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find loopback interface: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("turn loopback interface on: %w", err)
	}
	return nil
}

// Connect implements agent.Guest. It can be repeated: the interface has the addresses of
// the last call and no others.
func (g *Guest) Connect(_ context.Context, n agent.Network) error {
	link, err := card()
	if err != nil {
		return err
	}
	if err := setLink(link, n); err != nil {
		return err
	}
	if err := dropOthers(link, n.Addresses); err != nil {
		return err
	}
	for _, a := range n.Addresses {
		addr := &netlink.Addr{IPNet: ipNet(a)}
		if a.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD // the host has looked for duplicates
		}
		if err := netlink.AddrReplace(link, addr); err != nil {
			return fmt.Errorf("add address %s: %w", a, netError(err))
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("turn %s on: %w", n.Name, netError(err))
	}
	for _, p := range n.Neighbours {
		if err := setNeighbour(link, p); err != nil {
			return err
		}
	}
	// A gateway can be reached only by a route that is there already.
	routes := slices.Clone(n.Routes)
	slices.SortStableFunc(routes, func(a, b agent.Route) int { return weight(a) - weight(b) })
	for _, r := range routes {
		if err := netlink.RouteReplace(route(link, r)); err != nil {
			return fmt.Errorf("add route to %s: %w", r.Destination, netError(err))
		}
	}
	return nil
}

// dropOthers removes the IPv4 addresses that are not to be there, and with them their
// routes. Those of IPv6 go when the interface gets another hardware address.
func dropOthers(link netlink.Link, keep []netip.Prefix) error {
	have, err := netlink.AddrList(link, unix.AF_INET)
	if err != nil {
		return fmt.Errorf("list addresses: %w", netError(err))
	}
	for _, a := range have {
		if slices.ContainsFunc(keep, func(k netip.Prefix) bool { return ipNet(k).String() == a.IPNet.String() }) {
			continue
		}
		if err := netlink.AddrDel(link, &a); err != nil {
			return fmt.Errorf("remove address %s: %w", a.IPNet, netError(err))
		}
	}
	return nil
}

func weight(r agent.Route) int {
	if r.Gateway.IsValid() {
		return 1
	}
	return 0
}

// card is the machine's network interface: the one that a device is behind.
func card() (netlink.Link, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list network interfaces: %w", netError(err))
	}
	for _, l := range links {
		if _, err := os.Stat(filepath.Join("/sys/class/net", l.Attrs().Name, "device")); err == nil {
			return l, nil
		}
	}
	return nil, fmt.Errorf("the machine has no network interface: %w", errdefs.ErrFailedPrecondition)
}

// setLink names the interface, gives it its hardware address and its MTU, and turns it on.
func setLink(link netlink.Link, n agent.Network) error {
	is := link.Attrs()
	hardware, err := net.ParseMAC(n.MAC)
	if n.MAC != "" && err != nil {
		return fmt.Errorf("hardware address %q: %w", n.MAC, errdefs.ErrInvalidArgument)
	}
	rename := n.Name != "" && n.Name != is.Name
	readdress := n.MAC != "" && hardware.String() != is.HardwareAddr.String()
	if rename || readdress {
		if err := netlink.LinkSetDown(link); err != nil {
			return fmt.Errorf("turn %s off: %w", is.Name, netError(err))
		}
	}
	if rename {
		if err := netlink.LinkSetName(link, n.Name); err != nil {
			return fmt.Errorf("rename %s to %q: %w", is.Name, n.Name, netError(err))
		}
		is.Name = n.Name
	}
	if readdress {
		if err := netlink.LinkSetHardwareAddr(link, hardware); err != nil {
			return fmt.Errorf("set hardware address %s: %w", hardware, netError(err))
		}
	}
	if n.MTU > 0 && n.MTU != is.MTU {
		if err := netlink.LinkSetMTU(link, n.MTU); err != nil {
			return fmt.Errorf("set MTU %d: %w", n.MTU, netError(err))
		}
	}
	// The host's interface has the addresses that there are, and has looked for
	// duplicates: the guest is to make and ask for none.
	for _, name := range []string{"accept_dad", "accept_ra"} {
		err := os.WriteFile(filepath.Join("/proc/sys/net/ipv6/conf", is.Name, name), []byte("0"), 0)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("set %s of %s: %w: %w", name, is.Name, errdefs.ErrInternal, err)
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("turn %s on: %w", is.Name, netError(err))
	}
	return nil
}

func setNeighbour(link netlink.Link, p agent.Neighbour) error {
	hardware, err := net.ParseMAC(p.MAC)
	if err != nil {
		return fmt.Errorf("hardware address %q of %s: %w", p.MAC, p.IP, errdefs.ErrInvalidArgument)
	}
	err = netlink.NeighSet(&netlink.Neigh{
		LinkIndex: link.Attrs().Index, Family: family(p.IP), State: netlink.NUD_PERMANENT, IP: p.IP.AsSlice(), HardwareAddr: hardware,
	})
	if err != nil {
		return fmt.Errorf("add neighbour %s: %w", p.IP, netError(err))
	}
	return nil
}

func route(link netlink.Link, r agent.Route) *netlink.Route {
	out := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(r.Destination), Priority: r.Metric, MTU: r.MTU, Family: family(r.Destination.Addr())}
	if r.Gateway.IsValid() {
		out.Gw = r.Gateway.AsSlice()
	} else {
		out.Scope = netlink.SCOPE_LINK
	}
	if r.Source.IsValid() {
		out.Src = r.Source.AsSlice()
	}
	if r.OnLink {
		out.SetFlag(netlink.FLAG_ONLINK)
	}
	return out
}

func family(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// netError gives an error of the kernel's a kind.
func netError(err error) error {
	for _, invalid := range []error{unix.EINVAL, unix.ERANGE, unix.EADDRNOTAVAIL, unix.ENETUNREACH} {
		if errors.Is(err, invalid) {
			return fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
		}
	}
	return fmt.Errorf("%w: %w", errdefs.ErrInternal, err)
}
