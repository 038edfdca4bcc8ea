package config

import (
	"path/filepath"
	"strings"
)

// check lists every mistake in the description of virtual machines.
func (v *VM) check(k *checker) {
	switch {
	case v.QEMU == "":
		k.bad("vm.qemu", "a program is needed")
	case strings.ContainsRune(v.QEMU, '/'):
		k.absolute("vm.qemu", v.QEMU)
	}
	if v.Image != "" {
		k.absolute("vm.image", v.Image)
	}
	v.checkKernel(k)
	k.oneOf("vm.machine", v.Machine, "q35")
	k.oneOf("vm.accelerator", v.Accelerator, AcceleratorAuto, AcceleratorKVM, AcceleratorTCG)
	k.oneOf("vm.rootfs", v.Rootfs, RootfsAuto, RootfsDisk, RootfsDAX)
	k.oneOf("vm.isolation", v.Isolation, IsolationShared, IsolationStrict)
	if v.Isolation == IsolationStrict && v.Rootfs == RootfsDAX {
		k.bad("vm.rootfs", "%q shares the page cache of images, isolation = %q does not", v.Rootfs, v.Isolation)
	}
	if strings.ContainsAny(v.CPU, " \t\n\x00") {
		k.bad("vm.cpu", "%q has white space; flags follow the model after commas: qemu64,+rdrand", v.CPU)
	}
	k.within("vm.vcpus", v.VCPUs, 1, 64)
	k.within("vm.memory", v.Memory, 256, 1<<20)
	k.within("vm.max_memory", v.MaxMemory, v.Memory, 1<<20)
	k.within("vm.disk", v.Disk, 16, 1<<24)
	k.within("vm.pool", v.Pool, 0, 64)
}

func (v *VM) checkKernel(k *checker) {
	own := filepath.IsAbs(v.Kernel)
	switch {
	case !own && strings.ContainsRune(v.Kernel, '/'):
		k.absolute("vm.kernel", v.Kernel)
	case own && v.Initrd == "":
		k.bad("vm.initrd", "a kernel of your own needs an initrd with its modules and cricket-guest")
	case !own && v.Initrd != "":
		k.bad("vm.initrd", "an initrd belongs to a kernel that is given by its path")
	case v.Initrd != "":
		k.absolute("vm.initrd", v.Initrd)
	}
	if strings.ContainsAny(v.Cmdline, "\n\x00") {
		k.bad("vm.cmdline", "it must be one line")
	}
}
