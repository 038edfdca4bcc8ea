package network

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/vmsandbox/agent"
)

// read says what the plugins have given an interface.
func read(link netlink.Link) (agent.Network, error) {
	a := link.Attrs()
	n := agent.Network{Name: a.Name, MAC: a.HardwareAddr.String(), MTU: a.MTU}
	addresses, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return n, fmt.Errorf("list addresses of %s: %w", a.Name, err)
	}
	for _, address := range addresses {
		// The guest's kernel makes the link-local address itself, of the same hardware
		// address.
		if p, ok := prefix(address.IPNet.IP, address.IPNet.Mask); ok && !p.Addr().IsLinkLocalUnicast() {
			n.Addresses = append(n.Addresses, p)
		}
	}
	if n.Routes, err = routes(link); err != nil {
		return n, err
	}
	n.Neighbours, err = neighbours(link)
	return n, err
}

// routes are those that somebody added; the others come with the addresses. Those over a
// gateway come after those that lead to it.
func routes(link netlink.Link) ([]agent.Route, error) {
	list, err := netlink.RouteList(link, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list routes of %s: %w", link.Attrs().Name, err)
	}
	var out []agent.Route
	for _, r := range list {
		if r.Type != unix.RTN_UNICAST || r.Protocol == unix.RTPROT_KERNEL || r.Protocol == unix.RTPROT_RA {
			continue
		}
		route := agent.Route{
			Metric: r.Priority, MTU: r.MTU, OnLink: r.Flags&int(netlink.FLAG_ONLINK) != 0,
			Gateway: addr(r.Gw), Source: addr(r.Src),
		}
		if r.Dst == nil {
			route.Destination = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
			if r.Family == netlink.FAMILY_V6 {
				route.Destination = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
			}
		} else if p, ok := prefix(r.Dst.IP, r.Dst.Mask); ok {
			route.Destination = p
		} else {
			continue
		}
		if route.Destination.Addr().IsLinkLocalUnicast() && !route.Gateway.IsValid() && route.Destination.Addr().Is6() || route.Destination.Addr().IsMulticast() {
			continue
		}
		out = append(out, route)
	}
	slices.SortStableFunc(out, func(a, b agent.Route) int { return gatewayed(a) - gatewayed(b) })
	return out, nil
}

func gatewayed(r agent.Route) int {
	if r.Gateway.IsValid() {
		return 1
	}
	return 0
}

// neighbours are the entries that were made for good.
func neighbours(link netlink.Link) ([]agent.Neighbour, error) {
	var out []agent.Neighbour
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		list, err := netlink.NeighList(link.Attrs().Index, family)
		if err != nil {
			return nil, fmt.Errorf("list neighbours of %s: %w", link.Attrs().Name, err)
		}
		for _, e := range list {
			if ip := addr(e.IP); e.State&netlink.NUD_PERMANENT != 0 && ip.IsValid() && !ip.IsMulticast() {
				out = append(out, agent.Neighbour{IP: ip, MAC: e.HardwareAddr.String()})
			}
		}
	}
	return out, nil
}

func addr(ip []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

func prefix(ip, mask []byte) (netip.Prefix, bool) {
	a := addr(ip)
	if !a.IsValid() {
		return netip.Prefix{}, false
	}
	ones := 0
	for _, b := range mask {
		for ; b&0x80 != 0; b <<= 1 {
			ones++
		}
	}
	if len(mask) == 16 && a.Is4() {
		ones -= 96
	}
	p := netip.PrefixFrom(a, ones)
	return p, p.IsValid()
}
