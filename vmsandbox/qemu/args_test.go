package qemu

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/cricket-cri/cricket/vmsandbox/vmm"
)

// The command line is compared with a file: what changes here changes which saved states
// fit. After a change on purpose, layout gets another value if a state holds what has changed,
// and UPDATE=1 rewrites them.
func TestArguments(t *testing.T) {
	sockets := map[string]int{socketQMP: 3, socketGovmm: 4, vmm.PortDaemon: 5, vmm.PortMonitor: 6}
	s := vmm.Shape{Machine: "q35", Accelerator: vmm.AccelTCG, VCPUs: 2, MemoryMiB: 256, MaxMemoryMiB: 4096, Kernel: "/k", Initrd: "/i", Cmdline: "psi=1"}
	kvm := s
	kvm.Accelerator, kvm.MaxMemoryMiB, kvm.Initrd = vmm.AccelKVM, 0, ""
	for name, l := range map[string]launch{
		"template": {
			config:  vmm.Config{ID: "t", Shape: s, Memory: vmm.Memory{Shared: true}},
			volumes: "/none", sockets: sockets, memory: 7, tap: 8, tscKHz: 2596128,
		},
		"clone": {
			config:  vmm.Config{ID: "c", Shape: s, MAC: "02:00:00:00:00:07"},
			volumes: "/v", sockets: sockets, memory: 7, state: 8, tap: 9,
		},
		"cold": {config: vmm.Config{ID: "k", Shape: kvm}, volumes: "/v", sockets: sockets},
	} {
		args, err := l.args()
		if err != nil {
			t.Fatal(err)
		}
		got := strings.ReplaceAll(strings.Join(args, "\n")+"\n", "\n-", "\n\n-")
		path := filepath.Join("testdata", name+".args")
		if os.Getenv("UPDATE") != "" {
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("arguments of %s:\n%s\nwant:\n%s", name, got, want)
		}
	}
}

func TestCheck(t *testing.T) {
	good := vmm.Config{ID: "m-1", Shape: vmm.Shape{Machine: "q35", Accelerator: vmm.AccelTCG, VCPUs: 1, MemoryMiB: 128, Kernel: "/k"}}
	if err := check(good); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(c *vmm.Config){
		"ID":          func(c *vmm.Config) { c.ID = "../x" },
		"empty ID":    func(c *vmm.Config) { c.ID = "" },
		"Machine":     func(c *vmm.Config) { c.Shape.Machine = "q35,usb=on" },
		"Accelerator": func(c *vmm.Config) { c.Shape.Accelerator = "xen" },
		"VCPUs":       func(c *vmm.Config) { c.Shape.VCPUs = 0 },
		"MemoryMiB":   func(c *vmm.Config) { c.Shape.MemoryMiB = 1 },
		"Kernel":      func(c *vmm.Config) { c.Shape.Kernel = "" },
		"MAC":         func(c *vmm.Config) { c.MAC = "1,romfile=/x" },
		"Volumes":     func(c *vmm.Config) { c.Volumes = "/v,readonly=off" },
		"relative":    func(c *vmm.Config) { c.Volumes = "v" },
		"State":       func(c *vmm.Config) { c.State = os.Stdin },
	} {
		c := good
		spoil(&c)
		if err := check(c); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What is described is what VMDK calls flat extents.
func TestDescribe(t *testing.T) {
	got := string(describe([]extent{{"/dev/fdset/1", 8}, {"/dev/fdset/2", 16}}))
	if !strings.Contains(got, "\nRW 8 FLAT \"/dev/fdset/1\" 0\nRW 16 FLAT \"/dev/fdset/2\" 0\n") {
		t.Error(got)
	}
}

// The reason for a panic is quoted, however long the trace after it is.
func TestLastWords(t *testing.T) {
	long := strings.Repeat(" trace\n", 1000)
	for said, want := range map[string]string{
		"":                              "",
		"one\ntwo\x1b[0m\xff three\r\n": "one two [0m three",
		"boot" + long + "\nKernel panic - not syncing: why\n" + long: "Kernel panic - not syncing: why trace",
		"boot" + long + "the end":                                    "trace the end",
	} {
		got := quote([]byte(said))
		if len(got) > tailBytes || !strings.Contains(got, want) || strings.Contains(got, "boot") {
			t.Errorf("%.40q...: %q", said, got)
		}
	}
}
