// Package workload runs what people run, as others wrote it, in virtual machines: databases
// and a whole operating system, in images of Debian's packages; and what nobody should run,
// a guest that means harm.
//
// Every pod is a virtual machine unless a test says otherwise. It takes minutes, most of
// them where machines are emulated: make test-vm-workloads.
package workload
