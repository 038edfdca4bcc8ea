// Package node puts the parts of virtual machines together as a node has them: QEMU below
// the node's monitor, the accelerator that works here, the stock of machines, disks,
// volumes, logs, and the driver of pods on top.
package node
