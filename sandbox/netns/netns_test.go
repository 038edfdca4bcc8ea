package netns_test

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cricket-cri/cricket/sandbox/netns"
)

var all = []specs.LinuxNamespaceType{specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace}

func inNamespace(t *testing.T, d netns.Dir, args ...string) string {
	t.Helper()
	enter := []string{
		"--net=" + d.Path(specs.NetworkNamespace),
		"--ipc=" + d.Path(specs.IPCNamespace),
		"--uts=" + d.Path(specs.UTSNamespace),
	}
	out, err := exec.Command("nsenter", append(enter, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v: %s", args, err, out)
	}
	return strings.Join(strings.Fields(string(out)), " ")
}

func mounts(t *testing.T) string {
	t.Helper()
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return string(table)
}

func TestMakeSetsUpAndUnpinLeavesNothing(t *testing.T) {
	d := netns.Dir(filepath.Join(t.TempDir(), "ns"))
	hostName, _ := os.Hostname()
	err := d.Make(netns.Setup{
		Types:    all,
		Hostname: "cricket-pod",
		Sysctls: netns.AddDefaultSysctls(map[string]string{
			"kernel.shm_rmid_forced":        "1",
			"net/ipv4/conf/lo/accept_local": "1",
		}, false),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Unpin() })
	for _, want := range [][2]string{
		{"hostname", "cricket-pod"},
		{"cat /proc/sys/kernel/shm_rmid_forced", "1"},
		{"cat /proc/sys/net/ipv4/conf/lo/accept_local", "1"},
		{"cat /proc/sys/net/ipv4/ip_unprivileged_port_start", "0"},
		{"cat /proc/sys/net/ipv4/ping_group_range", "0 2147483647"},
	} {
		if got := inNamespace(t, d, strings.Fields(want[0])...); got != want[1] {
			t.Errorf("%s: got %q, want %q", want[0], got, want[1])
		}
	}
	if got := inNamespace(t, d, "ip", "-o", "addr", "show", "lo"); !strings.Contains(got, "127.0.0.1") {
		t.Errorf("loopback is not up: %s", got)
	}
	if now, _ := os.Hostname(); now != hostName {
		t.Errorf("host name changed to %q", now)
	}
	if value, _ := os.ReadFile("/proc/sys/kernel/shm_rmid_forced"); strings.TrimSpace(string(value)) != "0" {
		t.Errorf("the host's shm_rmid_forced is %s", value)
	}
	for range 2 {
		if err := d.Unpin(); err != nil {
			t.Fatal(err)
		}
	}
	if strings.Contains(mounts(t), string(d)) {
		t.Error("a pin is still mounted")
	}
	if _, err := os.Stat(string(d)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("directory is still there: %v", err)
	}
}

func TestDoEntersAndReturns(t *testing.T) {
	d := netns.Dir(filepath.Join(t.TempDir(), "ns"))
	if err := d.Make(netns.Setup{Types: all}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Unpin() })
	before, _ := os.Readlink("/proc/thread-self/ns/net")
	for range 20 {
		var l net.Listener
		err := netns.Do(d.Path(specs.NetworkNamespace), func() (err error) {
			if now, _ := os.Readlink("/proc/thread-self/ns/net"); now == before {
				t.Error("did not enter")
			}
			l, err = net.Listen("tcp", "127.0.0.1:80")
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		_ = l.Close()
	}
	if now, _ := os.Readlink("/proc/thread-self/ns/net"); now != before {
		t.Error("did not return")
	}
}

func TestMakeThatFailsLeavesNothing(t *testing.T) {
	d := netns.Dir(filepath.Join(t.TempDir(), "ns"))
	err := d.Make(netns.Setup{Types: all, Sysctls: map[string]string{"net.ipv4.no_such_thing": "1"}})
	if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "net.ipv4.no_such_thing") {
		t.Errorf("got %v", err)
	}
	if strings.Contains(mounts(t), string(d)) {
		t.Error("a pin is still mounted")
	}
}

func TestAdoptNamespacesOfAUserNamespace(t *testing.T) {
	mapping := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 200000, Size: 65536}}
	holder := exec.Command("sleep", "60")
	holder.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS,
		UidMappings: mapping, GidMappings: mapping,
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	stop := func() { _ = holder.Process.Kill(); _ = holder.Wait() }
	t.Cleanup(stop)
	d := netns.Dir(filepath.Join(t.TempDir(), "ns"))
	err := d.Adopt(holder.Process.Pid, netns.Setup{
		Types: all, Hostname: "userns-pod", RootUID: 200000, RootGID: 200000,
		Sysctls: netns.AddDefaultSysctls(map[string]string{"kernel.shm_rmid_forced": "1", "fs.mqueue.msg_max": "12"}, true),
	}, specs.UserNamespace)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Unpin() })
	stop()
	got := inNamespace(t, d, "cat", "/proc/sys/kernel/hostname", "/proc/sys/kernel/shm_rmid_forced",
		"/proc/sys/fs/mqueue/msg_max", "/proc/sys/net/ipv4/ip_unprivileged_port_start")
	if got != "userns-pod 1 12 0" {
		t.Errorf("got %q", got)
	}
	if !d.Has(specs.UserNamespace) {
		t.Error("user namespace is not pinned")
	}
	if err := d.Unpin(); err != nil || strings.Contains(mounts(t), string(d)) {
		t.Errorf("unpin: %v", err)
	}
}

func TestCheckSysctls(t *testing.T) {
	for _, c := range []struct {
		name  string
		types []specs.LinuxNamespaceType
		ok    bool
	}{
		{"net.core.somaxconn", all, true},
		{"net/ipv4/conf/eth0.1/forwarding", all, true},
		{"kernel.shmmax", all, true},
		{"fs.mqueue.msg_max", all, true},
		{"kernel.shmmax", all[:1], false},
		{"net.core.somaxconn", all[1:], false},
		{"kernel.hostname", all, false},
		{"vm.swappiness", all, false},
		{"kernel.panic", all, false},
		{"net/../kernel/panic", all, false},
		{"net./../.kernel.panic", all, false},
		{"", all, false},
	} {
		err := netns.CheckSysctls(map[string]string{c.name: "1"}, c.types)
		if (err == nil) != c.ok {
			t.Errorf("%q: %v", c.name, err)
		}
		if err != nil && (!errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), c.name)) {
			t.Errorf("%q: wrong error %v", c.name, err)
		}
	}
}

func TestCountersLeaveLoopbackOut(t *testing.T) {
	d := netns.Dir(filepath.Join(t.TempDir(), "ns"))
	if err := d.Make(netns.Setup{Types: all}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Unpin() })
	inNamespace(t, d, "ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1")
	stats, err := netns.Counters(d.Path(specs.NetworkNamespace))
	if err != nil || len(stats) != 2 {
		t.Errorf("got %v, %v", stats, err)
	}
}
