// Package qemu starts virtual machines with QEMU and finds them again.
//
// QEMU is a child of the host's monitor and outlives the daemon. It inherits listening
// sockets, so that whoever comes next simply connects: two for QMP, one of them for
// govmm's client and one for ours, and one for each port of the guest. Everything else
// that it needs reaches it as a descriptor too, so it can be confined to a root of its
// own (package confine).
//
// All machines have the same devices, so that the state of one can be loaded into
// another. The slots for disks are devices that exist from the start with nothing behind
// them; SetDisk exchanges what is behind.
package qemu
