package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/cri/config"
	"github.com/cricket-cri/cricket/runtime/monitor"
	"github.com/cricket-cri/cricket/vmsandbox/accel"
	"github.com/cricket-cri/cricket/vmsandbox/image"
	"github.com/cricket-cri/cricket/vmsandbox/node"
	"github.com/cricket-cri/cricket/vmsandbox/vmm"
)

// examineVirtual says whether the handler of virtual machines is there, and else why not.
func examineVirtual(ctx context.Context, name string, v config.VM) finding {
	f := finding{
		Name: "runtime " + name, Grade: limited, Lacks: "pods whose RuntimeClass names " + name,
		Fix: "apt-get install qemu-system-x86 e2fsprogs; put a guest image, which `make guest` makes, into /usr/lib/cricket/guest",
	}
	found, err := findImage(v)
	if err != nil {
		f.Detail = err.Error()
		return f
	}
	if _, err := exec.LookPath("mkfs.ext4"); err != nil {
		f.Detail = "mkfs.ext4 is not installed, so there are no disks for writable layers"
		return f
	}
	ctx, cancel := context.WithTimeout(ctx, programTime)
	defer cancel()
	text, err := exec.CommandContext(ctx, found.QEMU, "--version").Output()
	if err != nil {
		f.Detail = fmt.Sprintf("%s --version: %v", found.QEMU, err)
		return f
	}
	line, _, _ := strings.Cut(string(text), "\n")
	return ok(f.Name, "%s, %s, kernel %s %s", found.QEMU, line, found.Name, found.Release)
}

func findImage(v config.VM) (image.Found, error) {
	return image.Find(image.Wanted{QEMU: v.QEMU, Dir: v.Image, Kernel: v.Kernel, Initrd: v.Initrd, Cmdline: v.Cmdline})
}

// accelerator says whether virtual machines run on the processor or are emulated, and why.
func (h host) accelerator(ctx context.Context) []finding {
	const name = "VM accelerator"
	v := h.config.VM
	if v.Accelerator == accel.TCG && !h.reprobe {
		return []finding{ok(name, "tcg: the configuration says so")}
	}
	found, err := findImage(v)
	if err != nil {
		return []finding{ok(name, "%s; a guest has to be installed before more can be said", device())}
	}
	verdict, known, err := h.verdict(ctx, found)
	switch {
	case err != nil:
		return []finding{{
			Name: name, Grade: limited, Detail: "not found out: " + err.Error(), Lacks: "certainty",
			Fix: "start cricketd, whose monitor runs QEMU, and repeat `cricket check --reprobe`",
		}}
	case !known:
		return []finding{ok(name, "%s; it is tried when cricketd starts, or by `cricket check --reprobe`", device())}
	}
	return []finding{judge(name, v.Accelerator, verdict)}
}

// judge says what a verdict means where the configuration asks for an accelerator.
func judge(name, wanted string, v accel.Verdict) finding {
	detail := v.Accelerator + ": " + strings.Join(strings.Fields(v.Reason), " ")
	if v.Proven {
		detail += fmt.Sprintf(" (tried in %s, at %s)", v.Took.Round(time.Millisecond), v.At.Format(time.RFC3339))
	}
	if wanted == accel.KVM && v.Accelerator != accel.KVM {
		return finding{
			Name: name, Grade: limited, Detail: detail, Lacks: "virtual machines: the configuration demands kvm",
			Fix: `set vm.accelerator to "auto", or mend /dev/kvm and run cricket check --reprobe`,
		}
	}
	return ok(name, "%s", detail)
}

// verdict is what is known, or found out now.
func (h host) verdict(ctx context.Context, found image.Found) (v accel.Verdict, known bool, err error) {
	c := h.config
	o := node.Options{
		Root: c.Root, Image: found, Launcher: launcher(),
		Shape: vmm.Shape{
			Machine: c.VM.Machine, CPU: c.VM.CPU, VCPUs: c.VM.VCPUs, MemoryMiB: c.VM.Memory, MaxMemoryMiB: c.VM.MaxMemory,
		},
		Monitor: monitor.NewClient(monitor.DialUnix(filepath.Join(c.State, "monitor.sock"))),
	}
	if !h.reprobe {
		return node.Recall(ctx, o)
	}
	if _, err := o.Monitor.Hello(ctx); err != nil {
		return v, false, fmt.Errorf("ask the monitor: %w", err)
	}
	v, err = node.Reprobe(ctx, o)
	return v, err == nil, err
}

// launcher is the program that confines QEMU: the monitor's, which lies beside this one.
func launcher() string {
	const program = "cricket-monitor"
	if self, err := os.Executable(); err == nil {
		if path := filepath.Join(filepath.Dir(self), program); exists(path) {
			return path
		}
	}
	path, err := exec.LookPath(program)
	if err != nil {
		return program
	}
	return path
}

// device says what opening the node of KVM shows.
func device() string {
	fd, err := unix.Open("/dev/kvm", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Sprintf("/dev/kvm: %v: virtual machines are emulated", err)
	}
	unix.Close(fd)
	return "/dev/kvm opens, which proves nothing"
}
