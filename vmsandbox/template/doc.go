// Package template makes virtual machines fast by making them ahead.
//
// # Template
//
// One machine is booted in the background, does what a pod does once, and is saved: the
// state of its devices and its memory, in two sealed memory files. A clone loads the
// state and maps the memory copy-on-write. What the clone's programs and kernel only read
// is thereby in memory once for all machines. A template lives as long as the daemon that
// made it. If it cannot be made, or its clones do not work, it is made again later, with
// growing pauses.
//
// # Pool
//
// Some clones are kept in stock, parked: they have answered, have run a container from
// creation to removal, so that whatever is slow the first time has been slow already, have
// given back caches, and are paused. They are made off the request path, one at a time and
// with low priority. Machines that die while they are parked are replaced.
//
// Claim takes a parked machine, or has one made at once: a clone, and where that fails a
// machine that is booted. Whichever machine is ready first serves whoever has waited
// longest, so that a clone that was begun for the stock is not waited for in vain.
//
// # Belongings
//
// A machine has a directory DIR/ID beside the hypervisor's own: netns, where its network
// namespace is pinned (it becomes the pod's), and volumes, which it can mount by 9p. Its
// first writable disk is mounted in the guest from the start. All of these have the
// machine's id as their name, so that what a crash leaves is found and removed: Start
// removes every machine that it is not told to keep.
package template
