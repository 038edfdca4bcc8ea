package qemu

import (
	"fmt"
	"strings"

	govmm "github.com/kata-containers/govmm/qemu"

	"github.com/cricket-cri/cricket/vmsandbox/vmm"
)

// layout names the inventory of devices below. It is part of Version: a state that was
// saved with other devices cannot be loaded.
const layout = "2"

// Names of objects and devices in QEMU.
const (
	memoryID  = "mem"
	nicID     = "nic0"
	volumesID = "volumes"
	rootPorts = 4
)

// slotBytes is the size of an empty slot. The guest keeps seeing it whatever is put
// there; what lies beyond the end of a disk cannot be read or written.
const slotBytes = 1 << 40

// placeholder names the block node that is behind an empty slot.
func placeholder(slot string) string { return slot + "-none" }

// devicePath is where QEMU's object tree has a device.
func devicePath(id string) string { return "/machine/peripheral/" + id }

// front returns govmm's -device argument alone, with further properties: of some devices
// govmm knows a back end only that QEMU would have to open itself.
func front(d govmm.Device, properties ...string) ([]string, error) {
	params := d.QemuParams(&govmm.Config{})
	for i := 0; i+1 < len(params); i += 2 {
		if params[i] == "-device" {
			return []string{"-device", strings.Join(append([]string{params[i+1]}, properties...), ",")}, nil
		}
	}
	return nil, fmt.Errorf("describe device: no -device in %q", params)
}

// channelArgs describes the serial device and the listening sockets behind its ports.
func channelArgs(fds map[string]int) ([]string, error) {
	serial := govmm.SerialDevice{Driver: govmm.VirtioSerial, ID: "serial0", Transport: govmm.TransportPCI}
	args := serial.QemuParams(&govmm.Config{})
	for i, port := range ports() {
		id := fmt.Sprintf("port%d", i)
		dev, err := front(govmm.CharDevice{Driver: "virtserialport", ID: id, DeviceID: id + "-dev", Name: port, Backend: govmm.Socket, Path: "fd"})
		if err != nil {
			return nil, err
		}
		args = append(args, "-chardev", listening(id, fds[port]))
		args = append(args, dev...)
	}
	return args, nil
}

// listening is a character device on an inherited socket that listens.
func listening(id string, fd int) string {
	return fmt.Sprintf("socket,id=%s,fd=%d,server=on,wait=off", id, fd)
}

// slotArgs describes the slots for disks, all empty.
func slotArgs() ([]string, error) {
	var args []string
	readOnly, writable := vmm.Slots()
	for i, slot := range append(append([]string{}, readOnly...), writable...) {
		node := fmt.Sprintf("driver=null-co,node-name=%s,size=%d,read-zeroes=on", placeholder(slot), int64(slotBytes))
		if i < len(readOnly) {
			node += ",read-only=on"
		}
		disk := govmm.BlockDevice{
			Driver: govmm.VirtioBlock, ID: slot, File: "none", Transport: govmm.TransportPCI,
			SCSI: true, WCE: true, ShareRW: true, // the first two stand for QEMU's defaults
		}
		properties := []string{"id=" + slot}
		if i >= len(readOnly) {
			// QEMU's default stops the whole machine when the host's disk is full.
			properties = append(properties, "werror=report")
		}
		dev, err := front(disk, properties...)
		if err != nil {
			return nil, err
		}
		// govmm gives drive and serial number the same name; the last property counts.
		dev[1] = strings.Replace(dev[1], "drive="+slot+",", "drive="+placeholder(slot)+",", 1)
		args = append(args, "-blockdev", node)
		args = append(args, dev...)
	}
	return args, nil
}

// nicArgs describes the network interface. Without a tap nothing is connected to it.
func nicArgs(mac string, tap int) ([]string, error) {
	dev, err := front(govmm.NetDevice{Type: govmm.TAP, ID: nicID, IFName: "tap", MACAddress: mac, Transport: govmm.TransportPCI}, "id="+nicID, "romfile=")
	if err != nil {
		return nil, err
	}
	if tap == 0 {
		dev[1] = strings.Replace(dev[1], "netdev="+nicID+",", "", 1)
		return dev, nil
	}
	return append([]string{"-netdev", fmt.Sprintf("tap,id=%s,fd=%d", nicID, tap)}, dev...), nil
}

// volumesArgs exports a directory by 9p. The files keep their owners.
func volumesArgs(dir string) []string {
	return govmm.FSDevice{
		Driver: govmm.Virtio9P, FSDriver: govmm.Local, ID: volumesID, Path: dir, MountTag: vmm.VolumesTag,
		SecurityModel: govmm.PassThrough, Multidev: govmm.Remap, Transport: govmm.TransportPCI,
	}.QemuParams(&govmm.Config{})
}

// rootPortArgs describes slots into which devices can be plugged later.
func rootPortArgs() []string {
	var args []string
	for i := range rootPorts {
		port := govmm.PCIeRootPortDevice{ID: fmt.Sprintf("rp%d", i), Chassis: fmt.Sprint(i + 1), Slot: fmt.Sprint(i + 1), Transport: govmm.TransportPCI}
		args = append(args, port.QemuParams(&govmm.Config{})...)
	}
	return args
}
