package cluster

import (
	"fmt"
	"net"
	"os"

	"github.com/vishvananda/netlink"
)

// NodeName is the node's, and its host name.
const NodeName = "cricket-node"

// The cluster's addresses. They exist in the private node only.
const (
	nodeIP      = "10.177.0.1"
	serviceCIDR = "10.96.0.0/16"
	apiIP       = "10.96.0.1" // the first of the services
	dnsIP       = "10.96.0.10"
	podCIDR     = "10.89.0.0/16" // harness's network
)

// network gives the node a link with an address and a default route, as the kubelet and
// kube-proxy want it; behind the link there is nobody.
func network() error {
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "node0"}, PeerName: "node0p"}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("make the node's link: %w", err)
	}
	for _, name := range []string{"node0", "node0p"} {
		link, err := netlink.LinkByName(name)
		if err == nil {
			err = netlink.LinkSetUp(link)
		}
		if err != nil {
			return fmt.Errorf("set link %s up: %w", name, err)
		}
	}
	address := &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(nodeIP), Mask: net.CIDRMask(24, 32)}}
	link, err := netlink.LinkByName("node0")
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(link, address); err != nil {
		return fmt.Errorf("give the node its address: %w", err)
	}
	gateway := net.ParseIP(nodeIP).To4().Mask(net.CIDRMask(24, 32))
	gateway[3] = 254
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: gateway}); err != nil {
		return fmt.Errorf("give the node a default route: %w", err)
	}
	// Answers between pods of one bridge must take the way back that the request took.
	if err := os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-iptables", []byte("1"), 0o644); err != nil {
		return fmt.Errorf("let iptables see bridged packets (module br_netfilter): %w", err)
	}
	return nil
}
