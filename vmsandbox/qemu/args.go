package qemu

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/cricket-cri/cricket/vmsandbox/vmm"
)

// Machines whose devices are known to fit.
const machineQ35 = "q35"

// defaultMAC is the address of the NIC of all machines that are given no other. The
// guest's agent sets the one that CNI gave.
const defaultMAC = "52:54:00:00:00:01"

// firstFD is the number of the first descriptor that QEMU inherits beside the standard
// streams.
const firstFD = 3

// memoryStep is the unit of added memory: what Linux can put into use at once.
const memoryStep = 128 << 20

// mapRoomMiB is how much address space there is for files that are mapped, beside that for
// added memory. It costs nothing as long as it is empty.
const mapRoomMiB = 16 << 10

// inherited collects the descriptors that QEMU gets.
type inherited struct {
	files []*os.File
}

func (h *inherited) add(f *os.File) int {
	h.files = append(h.files, f)
	return firstFD + len(h.files) - 1
}

// sockets of a machine: QMP for govmm's client and for ours, and the guest's ports.
const (
	socketQMP   = "qmp"
	socketGovmm = "govmm"
)

func ports() []string { return []string{vmm.PortDaemon, vmm.PortMonitor} }

func sockets() []string { return append([]string{socketQMP, socketGovmm}, ports()...) }

// launch is everything that QEMU's command line depends on.
type launch struct {
	config  vmm.Config
	volumes string         // exported by 9p
	sockets map[string]int // numbers of the listening sockets' descriptors
	memory  int            // number of the memory file's descriptor, 0 if there is none
	state   int            // number of the state's descriptor, 0 boots a kernel
	tap     int            // number of the tap's descriptor, 0 if there is none
	tscKHz  int            // frequency of the host's time stamp counter, 0 if unknown
}

// args returns the arguments of QEMU, without the program. What is part of a saved state
// is the same whether a kernel is booted or a state is loaded.
func (l launch) args() ([]string, error) {
	s := l.config.Shape
	args := []string{
		"-name", "guest=" + l.config.ID,
		"-machine", s.Machine + ",vmport=off,hpet=off,smm=off,sata=off,smbus=off,usb=off,graphics=off,mem-merge=off,memory-backend=" + memoryID,
		"-accel", accelerator(s.Accelerator), "-cpu", cpuModel(s), "-smp", strconv.Itoa(s.VCPUs),
		"-m", memorySize(s), "-object", l.memoryBackend(),
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-S",
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		"-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
	}
	for _, name := range []string{socketQMP, socketGovmm} {
		args = append(args, "-chardev", listening(name, l.sockets[name]), "-mon", "chardev="+name+",mode=control")
	}
	channels, err := channelArgs(l.sockets)
	if err != nil {
		return nil, err
	}
	slots, err := slotArgs()
	if err != nil {
		return nil, err
	}
	mac := l.config.MAC
	if mac == "" {
		mac = defaultMAC
	}
	nic, err := nicArgs(mac, l.tap)
	if err != nil {
		return nil, err
	}
	for _, more := range [][]string{channels, slots, nic, volumesArgs(l.volumes), rootPortArgs()} {
		args = append(args, more...)
	}
	if l.state != 0 {
		return append(args, "-incoming", "defer"), nil
	}
	args = append(args, "-kernel", s.Kernel, "-append", l.cmdline())
	if s.Initrd != "" {
		args = append(args, "-initrd", s.Initrd)
	}
	return args, nil
}

func accelerator(name string) string {
	if name == vmm.AccelTCG {
		return "tcg,tb-size=64" // MiB of translated code; QEMU's default takes up to 1 GiB
	}
	return name
}

// cpuModel gives emulated processors the instruction for random numbers that QEMU knows:
// without one a guest waits for entropy.
func cpuModel(s vmm.Shape) string {
	switch {
	case s.CPU != "":
		return s.CPU
	case s.Accelerator == vmm.AccelTCG:
		return "qemu64,+rdrand"
	}
	return "host"
}

func memorySize(s vmm.Shape) string {
	return fmt.Sprintf("size=%dM,slots=%d,maxmem=%dM", s.MemoryMiB, vmm.MemoryPieces, max(s.MemoryMiB, s.MaxMemoryMiB)+mapRoomMiB)
}

// memoryBackend names the file by its descriptor. govmm cannot say whether writes are
// shared, and would add a device that makes an NVDIMM of the memory.
func (l launch) memoryBackend() string {
	size := fmt.Sprintf("size=%dM", l.config.Shape.MemoryMiB)
	if l.memory == 0 {
		return "memory-backend-ram,id=" + memoryID + "," + size
	}
	share := "off"
	if l.config.Memory.Shared {
		share = "on"
	}
	return fmt.Sprintf("memory-backend-file,id=%s,%s,mem-path=/proc/self/fd/%d,share=%s", memoryID, size, l.memory, share)
}

// cmdline is the kernel's. A kernel that panics reboots, which ends QEMU. An emulated
// time stamp counter runs at the host's rate: measuring it fails on a busy host. Two words
// are for whole systems in privileged containers, which take the machine for their own: its
// console is for the kernel's last words and nobody logs in there, and its interface is
// called eth0.
func (l launch) cmdline() string {
	words := []string{"console=ttyS0", "quiet", "panic=-1", "reboot=t", "systemd.getty_auto=no", "net.ifnames=0"}
	if l.config.Shape.Accelerator == vmm.AccelTCG {
		if l.tscKHz > 0 {
			words = append(words, fmt.Sprintf("tsc_early_khz=%d", l.tscKHz))
		}
		// Compiling a seccomp filter would take an emulated processor longer than interpreting
		// it ever does: the kernel remembers which calls are allowed.
		words = append(words, "tsc=reliable", "no_timer_check", "sysctl.net.core.bpf_jit_enable=0")
	}
	if more := l.config.Shape.Cmdline; more != "" {
		words = append(words, more)
	}
	return strings.Join(words, " ")
}

// validID tells whether an id can be a file name and a word of the command line.
func validID(id string) bool {
	if id == "" || len(id) > 64 || id[0] == '-' {
		return false
	}
	return strings.Trim(id, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

// check refuses what QEMU would misunderstand. Commas separate options.
func check(c vmm.Config) error {
	s := c.Shape
	for field, bad := range map[string]bool{
		"ID":           !validID(c.ID),
		"Machine":      s.Machine != machineQ35,
		"Accelerator":  s.Accelerator != vmm.AccelKVM && s.Accelerator != vmm.AccelTCG,
		"CPU":          strings.ContainsAny(s.CPU, " \n"),
		"VCPUs":        s.VCPUs < 1 || s.VCPUs > 255,
		"MemoryMiB":    s.MemoryMiB < 32 || s.MemoryMiB > 1<<24,
		"MaxMemoryMiB": s.MaxMemoryMiB < 0 || s.MaxMemoryMiB > 1<<24,
		"Kernel":       c.State == nil && (s.Kernel == "" || strings.Contains(s.Kernel, ",")),
		"Initrd":       strings.Contains(s.Initrd, ","),
		"MAC":          strings.ContainsAny(c.MAC, ", "),
		"Volumes":      c.Volumes != "" && (!filepath.IsAbs(c.Volumes) || strings.Contains(c.Volumes, ",")),
		"State":        c.State != nil && c.Memory.File == nil && !c.Whole,
	} {
		if bad {
			return fmt.Errorf("check machine: field %s: %w", field, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// hostTSC reads the frequency of the host's time stamp counter, in kHz.
func hostTSC() int {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		key, value, _ := strings.Cut(line, ":")
		if strings.TrimSpace(key) == "cpu MHz" {
			mhz, _ := strconv.ParseFloat(strings.TrimSpace(value), 64)
			return int(mhz * 1000)
		}
	}
	return 0
}
