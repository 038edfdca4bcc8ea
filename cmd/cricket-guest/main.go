// Command cricket-guest is process 1 of a pod's virtual machine. As "modprobe" it loads
// a kernel module, and as "cricket-guest pod-init POD" it is process 1 of a PID namespace
// that the pod's containers share.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cricket-cri/cricket/runtime/monitor"
	"github.com/cricket-cri/cricket/vmsandbox/guest"
	"github.com/cricket-cri/cricket/vmsandbox/guest/executor"
)

func main() {
	if filepath.Base(os.Args[0]) == "modprobe" {
		exit(guest.Modprobe(os.Args[1:]))
	}
	if len(os.Args) > 1 && os.Args[1] == "pod-init" {
		monitor.PodInit()
	}
	if os.Getpid() != 1 {
		exit(fmt.Errorf("not process 1: this program is for virtual machines"))
	}
	// When it returns the kernel panics and the machine ends: that is how the host learns.
	exit(run())
}

func run() error {
	x, err := executor.New(executor.Options{})
	if err != nil {
		return err
	}
	return guest.Run(context.Background(), guest.Options{Executor: x, PodInit: []string{"/init", "pod-init"}})
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "cricket-guest:", err)
		os.Exit(1)
	}
	os.Exit(0)
}
