package network

import (
	"errors"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/sandbox/netns"
	"github.com/cricket-cri/cricket/vmsandbox/agent"
)

// Connect crosses the interface called name with the tap device, in the network namespace
// at path, and returns what the guest has to take over. It may be called again.
// errdefs.ErrFailedPrecondition: the namespace has more interfaces than a machine.
func Connect(path, name string) (n agent.Network, err error) {
	err = netns.Do(path, func() error {
		inside, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("find interface %s: %w", name, err)
		}
		if err := refuseMore(inside); err != nil {
			return err
		}
		if n, err = read(inside); err != nil {
			return err
		}
		tap, err := netlink.LinkByName(Tap)
		if err != nil {
			return fmt.Errorf("find tap device: %w", err)
		}
		if err := netlink.LinkSetMTU(tap, n.MTU); err != nil {
			return fmt.Errorf("set MTU of tap device: %w", err)
		}
		return errors.Join(redirect(inside, tap), redirect(tap, inside))
	})
	return n, err
}

// refuseMore looks for a second interface with addresses: the machine has one.
func refuseMore(only netlink.Link) error {
	links, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	for _, l := range links {
		a := l.Attrs()
		if a.Index == only.Attrs().Index || a.Name == Tap || a.RawFlags&unix.IFF_LOOPBACK != 0 || a.RawFlags&unix.IFF_UP == 0 {
			continue
		}
		addresses, err := netlink.AddrList(l, netlink.FAMILY_ALL)
		if err != nil {
			return fmt.Errorf("list addresses of %s: %w", a.Name, err)
		}
		if slices.ContainsFunc(addresses, func(a netlink.Addr) bool { return !a.IP.IsLinkLocalUnicast() }) {
			return fmt.Errorf("the network gave the pod a second interface, %s, and a virtual machine has one (docs/limitations.md): %w", a.Name, errdefs.ErrFailedPrecondition)
		}
	}
	return nil
}

// redirect lets every frame that arrives at one interface leave at the other.
func redirect(from, to netlink.Link) error {
	qdisc := &netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: from.Attrs().Index, Parent: netlink.HANDLE_INGRESS, Handle: netlink.MakeHandle(0xffff, 0),
	}}
	if err := netlink.QdiscAdd(qdisc); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add ingress queue to %s: %w", from.Attrs().Name, err)
	}
	// Without a selector u32 takes everything; not every kernel has the matchall classifier.
	filter := &netlink.U32{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: from.Attrs().Index, Parent: netlink.MakeHandle(0xffff, 0),
			Priority: 1, Protocol: unix.ETH_P_ALL,
		},
		Actions: []netlink.Action{netlink.NewMirredAction(to.Attrs().Index)},
	}
	there, err := netlink.FilterList(from, filter.Parent)
	if err != nil {
		return fmt.Errorf("list filters of %s: %w", from.Attrs().Name, err)
	}
	for _, f := range there {
		if u, ok := f.(*netlink.U32); ok && u.Priority == filter.Priority && len(u.Actions) > 0 {
			return nil // from an earlier call
		}
	}
	if err := netlink.FilterAdd(filter); err != nil {
		return fmt.Errorf("redirect %s to %s: %w", from.Attrs().Name, to.Attrs().Name, err)
	}
	return nil
}
