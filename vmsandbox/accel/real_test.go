package accel

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cricket-cri/cricket/vmsandbox/qemu"
	"github.com/cricket-cri/cricket/vmsandbox/vmm"
)

// On the machine that runs the test there is a verdict within the deadline, whatever
// that machine can do, with the guest that pods run in.
func TestThisMachine(t *testing.T) {
	const program = "/usr/bin/qemu-system-x86_64"
	guest, err := filepath.Abs("../../bin/guest")
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	n := newNode(t, "boots")
	n.options.Hypervisor, err = qemu.New(qemu.Options{Program: program, State: n.state, Monitor: n.monitor, Confine: &qemu.Confine{
		Launcher: []string{self, "confine"}, FirstUser: qemu.DefaultFirstUser, Users: 2, Files: qemu.DefaultFiles(program),
	}})
	if err != nil {
		t.Fatal(err)
	}
	n.options.Shape = vmm.Shape{Machine: "q35", VCPUs: 1, MemoryMiB: 256, Kernel: filepath.Join(guest, "vmlinux"), Initrd: filepath.Join(guest, "initrd")}
	n.options.Deadline, n.options.Device = 0, ""
	began := time.Now()
	v, err := Choose(context.Background(), Auto, false, n.options)
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > DefaultDeadline+10*time.Second {
		t.Errorf("the verdict took %v", took)
	}
	t.Logf("%s after %v: %s", v.Accelerator, time.Since(began), v.Reason)
	if v.Proven {
		again, err := Choose(context.Background(), Auto, false, n.options)
		if err != nil || !again.Remembered || again.Accelerator != v.Accelerator {
			t.Errorf("asked again: %+v, %v", again, err)
		}
	}
	if left, err := os.ReadDir(n.state); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
