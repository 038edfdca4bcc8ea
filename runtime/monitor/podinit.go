package monitor

import (
	"os/signal"

	"golang.org/x/sys/unix"
)

// podInitArg is the argument that makes a monitor's program a pod's first process. The
// pod's id follows it.
const podInitArg = "pod-init"

// PodInit is process 1 of a shared PID namespace. It never returns. Ignoring SIGCHLD
// lets the kernel reap every orphan, and a signal from inside the namespace cannot end
// it.
func PodInit() {
	signal.Ignore()
	for {
		unix.Pause()
	}
}
