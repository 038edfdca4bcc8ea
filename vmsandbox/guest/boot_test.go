package guest_test

import (
	"testing"

	"github.com/cricket-cri/cricket/vmsandbox/guest/guesttest"
	"github.com/cricket-cri/cricket/vmsandbox/vmm"
)

// TestBoot boots Debian's kernel, and asks process 1 and the monitor on both ports.
func TestBoot(t *testing.T) {
	m := guesttest.Boot(t, guesttest.Config{})
	info, err := m.Guest.Hello(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s answered after %s, %s of CPU time", info.Kernel, m.Boot, m.CPU)
	if info.CPUs != 1 || info.MemoryBytes < 380<<20 || info.MemoryBytes > 512<<20 || len(info.Devices) == 0 || len(info.Capabilities) < 40 {
		t.Errorf("%d CPUs, %d bytes of memory, %d devices, %d capabilities", info.CPUs, info.MemoryBytes, len(info.Devices), len(info.Capabilities))
	}
	for _, kind := range []string{"erofs", "overlay", "ext4", "9p", "tmpfs", "cgroup2"} {
		if !contains(info.FileSystems, kind) {
			t.Errorf("no %s among %q", kind, info.FileSystems)
		}
	}
	other := guesttest.MonitorClient(m.Connect(t, vmm.PortMonitor))
	a, err := m.Monitor.Hello(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b, err := other.Hello(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if a != b || a.Pid != 1 {
		t.Errorf("the monitor says %+v on one port and %+v on the other", a, b)
	}
}

func contains(list []string, want string) bool {
	for _, s := range list {
		if s == want {
			return true
		}
	}
	return false
}
