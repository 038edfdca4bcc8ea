package quota

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// withoutResource runs do on a thread without CAP_SYS_RESOURCE, which ends with it.
func withoutResource(do func()) error {
	runtime.LockOSThread() // and never unlocks: the thread is not used again
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&h, &data[0]); err != nil {
		return err
	}
	data[0].Effective &^= 1 << unix.CAP_SYS_RESOURCE
	if err := unix.Capset(&h, &data[0]); err != nil {
		return err
	}
	do()
	return nil
}
