// Package disk makes the writable disks of virtual machines: sparse files that are ext4
// file systems from the start.
//
// The file system is made once, in memory, when the first disk is asked for. Of its
// nominal size only a few blocks are not zero (0.2 MiB of 64 GiB with the features chosen
// here), and a disk is a new file with those blocks in it: that takes about as long as
// creating any file, so no disks are kept in stock.
//
// A disk dies with its machine, and nobody reads it afterwards. So it has no journal, no
// checksums, nothing of it is ever synced to the host's disk, and the hypervisor may
// ignore the guest's flushes.
//
// DIR/OWNER/NAME is a disk; the owner is a machine's id. Usage is what the host has
// allocated for the file, whatever the guest thinks.
package disk
