// Package volume shows the containers of a virtual machine what is mounted into them.
//
// A volume crosses the border between the two kernels in one of four ways, chosen by what
// it is (docs/decisions/0006-vm-volumes.md):
//
//   - mirrored: the kubelet's configMaps, secrets, projected and downward volumes, and
//     single small files, are copied into memory of the guest and followed while they
//     change. Watchers in the container see the kubelet's atomic swap. What the container
//     writes into such a file is copied back when it has ended.
//   - memory: a memory emptyDir is a tmpfs of the guest.
//   - disk: another emptyDir is a directory on a disk of the machine.
//   - shared: everything else is a directory of the host, bound below the one directory
//     that the guest mounts by 9p.
//
// What cannot cross is refused, with the name of the field.
package volume
