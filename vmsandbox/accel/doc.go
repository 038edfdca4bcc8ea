// Package accel finds out whether virtual machines can run on the processor itself.
//
// That /dev/kvm can be opened proves nothing: nested virtualization, a kernel that lacks
// half of it or a sandbox may let a guest hang or QEMU crash. So a guest is booted, and
// has to answer within a deadline. Otherwise machines are emulated.
package accel
