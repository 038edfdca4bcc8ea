// Package network connects a virtual machine to the network of its pod.
//
// CNI plugins know nothing of the machine: they make an interface with addresses in the
// pod's network namespace, as for any pod. A tap device beside it leads into the machine,
// and the two are crossed by traffic control: every frame that arrives at one leaves at
// the other. The guest takes the interface's hardware address, addresses and routes over,
// so plugins, the host and other pods see what they would see of any pod.
//
// The interface keeps its addresses. The kernel of the host never answers for them, since
// no frame gets past the redirection, and plugins look for them when they check or delete
// an attachment.
package network

import (
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/sandbox/netns"
)

// Tap is the name of the tap device in its network namespace.
const Tap = "tap0"

// MakeTap makes a tap device in the network namespace that is pinned at path, and the
// namespace too if there is none. The device lives as long as the file that is returned,
// or a duplicate of it, is open.
func MakeTap(path string) (*os.File, error) {
	made := false
	if !netns.IsNamespace(path) {
		if err := netns.New(path); err != nil {
			return nil, err
		}
		made = true
	}
	var tap *os.File
	err := netns.Do(path, func() (err error) {
		tap, err = openTap()
		return err
	})
	if err != nil && made {
		err = errors.Join(err, netns.Remove(path))
	}
	return tap, err
}

// Remove unpins the network namespace that MakeTap made. It is idempotent.
func Remove(path string) error { return netns.Remove(path) }

func openTap() (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	if err := attach(fd); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	// Not earlier: what is not a device yet cannot be polled.
	return os.NewFile(uintptr(fd), Tap), nil
}

// attach makes the device of an open /dev/net/tun.
func attach(fd int) error {
	req, err := unix.NewIfreq(Tap)
	if err != nil {
		return fmt.Errorf("name tap device: %w", err)
	}
	// Without the header of virtio-net the guest would have to compute every checksum and
	// cut every large segment itself.
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		return fmt.Errorf("make tap device: %w", err)
	}
	// The namespace's own kernel has nothing to say on this wire.
	silence := "/proc/sys/net/ipv6/conf/" + Tap + "/disable_ipv6"
	if err := os.WriteFile(silence, []byte("1"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("silence tap device: %w", err)
	}
	link, err := netlink.LinkByName(Tap)
	if err == nil {
		err = netlink.LinkSetUp(link)
	}
	if err != nil {
		return fmt.Errorf("bring tap device up: %w", err)
	}
	return nil
}
