// Package guesttest boots the guest that hack/guest builds in a virtual machine, for
// tests of what runs in it. It emulates the processor, so that it works on any machine.
package guesttest

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cricket-cri/cricket/runtime/monitor"
	"github.com/cricket-cri/cricket/runtime/mux"
	"github.com/cricket-cri/cricket/vmsandbox/agent"
	"github.com/cricket-cri/cricket/vmsandbox/vmm"
)

// Config is what a machine has besides the processor.
type Config struct {
	// MemoryMiB is the machine's memory; 0 is 512.
	MemoryMiB int
	// CPUs is their number; 0 is 1.
	CPUs int
	// Kernel is the name of the kernel in the manifest's words; empty is Debian's, or
	// what CRICKET_TEST_GUEST_KERNEL says.
	Kernel string
	// Disks are image files by slot. The other slots are there, and empty.
	Disks map[string]string
	// Volumes is a directory that the guest can mount by 9p.
	Volumes string
	// Network gives the machine a NIC with QEMU's own network behind it: 10.0.2.0/24, the
	// host is 10.0.2.2.
	Network bool
	// Cmdline is appended to the kernel's command line.
	Cmdline string
	// Args are more of QEMU's arguments.
	Args []string
}

// Machine is a running guest.
type Machine struct {
	// Session is connected to the daemon's port, Guest and Monitor speak over it.
	Session *mux.Session
	Guest   *agent.Client
	Monitor *monitor.Client
	// Boot is the time from the start of QEMU to the first answer.
	Boot time.Duration
	// CPU is what QEMU had used by then: it depends less on how busy the machine is.
	CPU time.Duration
	Pid int
	// Dir holds the sockets of the ports, by their names, and qmp.
	Dir string

	console *console
}

// bootTime bounds a boot: emulation on a loaded machine is slow.
const bootTime = 3 * time.Minute

// Boot boots a guest and ends it with the test. A guest that does not answer fails the
// test, with the end of its console.
func Boot(t testing.TB, c Config) *Machine {
	t.Helper()
	image := Image(t)
	k, err := kernelOf(image, c.Kernel)
	if err != nil {
		t.Fatal(err)
	}
	m := &Machine{Dir: t.TempDir(), console: &console{}}
	ctx, cancel := context.WithTimeout(t.Context(), bootTime)
	defer cancel()
	args := append([]string{"qemu-system-x86_64"}, c.arguments(image, k, m.Dir)...)
	if c.Volumes != "" { // the place of QEMU's copies of volumes
		args = append([]string{"unshare", "--mount", "--propagation", "slave"}, args...)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = m.console, m.console
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	began := time.Now()
	if err := start(cmd); err != nil {
		t.Fatalf("start QEMU (hack/setup node installs it): %v", err)
	}
	m.Pid = cmd.Process.Pid
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		if t.Failed() {
			t.Logf("console of the guest:\n%s", m.Console())
		}
	})
	go func() {
		select {
		case <-ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	session, err := m.connect(ctx, vmm.PortDaemon)
	if err != nil {
		t.Fatalf("connect to the guest: %v", err)
	}
	m.Session = session
	t.Cleanup(func() { _ = session.Close() })
	m.Guest, m.Monitor = agent.NewClient(session.Open), MonitorClient(session)
	if _, err := m.Guest.Hello(ctx); err != nil {
		t.Fatalf("ask the guest who it is: %v", err)
	}
	m.Boot, m.CPU = time.Since(began), used(m.Pid)
	return m
}

// start starts a program from a thread that lives on: the signal of its parent's death is
// sent when the thread ends.
func start(cmd *exec.Cmd) error {
	failed := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		failed <- cmd.Start()
		select {}
	}()
	return <-failed
}

// Console is what the guest's kernel and process 1 have said.
func (m *Machine) Console() string { return m.console.String() }

// Connect opens a session of its own on a port.
func (m *Machine) Connect(t testing.TB, port string) *mux.Session {
	t.Helper()
	s, err := m.connect(t.Context(), port)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// connect connects to a port as soon as QEMU has it.
func (m *Machine) connect(ctx context.Context, port string) (*mux.Session, error) {
	var d net.Dialer
	for {
		c, err := d.DialContext(ctx, "unix", filepath.Join(m.Dir, port))
		if err == nil {
			return mux.Connect(ctx, c, mux.Options{})
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w, %w", err, context.Cause(ctx))
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// MonitorClient speaks to the guest's monitor.
func MonitorClient(s *mux.Session) *monitor.Client {
	return monitor.NewClient(func(ctx context.Context) (net.Conn, error) { return s.Open(ctx, agent.ServiceMonitor) })
}

// arguments for QEMU: the inventory of devices that the VM driver has, too.
func (c Config) arguments(image string, k kernel, dir string) []string {
	args := []string{
		"-M", "q35,vmport=off,hpet=off,smm=off,sata=off,smbus=off,usb=off,graphics=off", "-accel", "tcg,tb-size=64",
		"-cpu", "qemu64,+rdrand", "-smp", strconv.Itoa(max(c.CPUs, 1)), "-m", strconv.Itoa(memory(c.MemoryMiB)) + "M,slots=4,maxmem=4G",
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio",
		"-qmp", "unix:" + filepath.Join(dir, "qmp") + ",server=on,wait=off",
		"-kernel", filepath.Join(image, k.Kernel), "-initrd", filepath.Join(image, k.Initrd),
		"-append", strings.TrimSpace("console=ttyS0 tsc=reliable no_timer_check mitigations=off reboot=t " + clock() + " " + k.Cmdline + " " + c.Cmdline),
		"-device", "virtio-serial-pci,id=vser",
	}
	for i, port := range []string{vmm.PortDaemon, vmm.PortMonitor} {
		args = append(args, "-chardev", fmt.Sprintf("socket,id=p%d,path=%s,server=on,wait=off", i, filepath.Join(dir, port)),
			"-device", fmt.Sprintf("virtserialport,chardev=p%d,name=%s", i, port))
	}
	readOnly, writable := vmm.Slots()
	for i, slot := range append(readOnly, writable...) {
		args = append(args, c.disk(slot, i < len(readOnly))...)
	}
	if c.Network {
		args = append(args, "-netdev", "user,id=n0", "-device", "virtio-net-pci,netdev=n0,id=nic0,romfile=,mac=52:54:00:12:34:56")
	}
	if c.Volumes != "" {
		args = append(args, "-fsdev", "local,id=v,security_model=passthrough,multidevs=remap,path="+c.Volumes, "-device", "virtio-9p-pci,fsdev=v,mount_tag="+vmm.VolumesTag)
	}
	return append(args, c.Args...)
}

func (c Config) disk(slot string, readOnly bool) []string {
	mode := "off"
	if readOnly {
		mode = "on"
	}
	back := "driver=null-co,size=17179869184,read-zeroes=on"
	if file := c.Disks[slot]; file != "" {
		back = "driver=raw,file.driver=file,file.filename=" + file
	}
	return []string{"-blockdev", back + ",node-name=n-" + slot + ",read-only=" + mode, "-device", "virtio-blk-pci,id=" + slot + ",drive=n-" + slot + ",serial=" + slot}
}

func memory(mib int) int {
	if mib == 0 {
		return 512
	}
	return mib
}

// used is the CPU time of a process, in the kernel's ticks of 10 ms; 0 if it is gone.
func used(pid int) time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	words := strings.Fields(rest)
	if len(words) < 13 {
		return 0
	}
	var ticks int
	for _, w := range words[11:13] { // utime, stime
		n, err := strconv.Atoi(w)
		if err != nil {
			return 0
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// clock tells the guest how fast its time stamp counter is: finding out goes wrong on a
// loaded machine.
func clock() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "cpu MHz" {
			if mhz, err := strconv.ParseFloat(strings.TrimSpace(value), 64); err == nil {
				return fmt.Sprintf("tsc_early_khz=%d", int(mhz*1000))
			}
		}
	}
	return ""
}

// console keeps what QEMU prints.
type console struct {
	mu   sync.Mutex
	text []byte
}

func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.text = append(c.text, p...)
	return len(p), nil
}

func (c *console) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(c.text)
}
