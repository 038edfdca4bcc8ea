package executor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
)

// volume makes a directory with a file and a mount below it.
func (b *box) volume(name string) string {
	dir := filepath.Join(b.bundle, name)
	must(b.t, os.MkdirAll(filepath.Join(dir, "below"), 0o777))
	must(b.t, os.WriteFile(filepath.Join(dir, "file"), []byte(name), 0o666))
	must(b.t, unix.Mount("x", filepath.Join(dir, "below"), "tmpfs", 0, "size=64k"))
	b.t.Cleanup(func() { must(b.t, unix.Unmount(filepath.Join(dir, "below"), unix.MNT_DETACH)) })
	return dir
}

func TestVolumes(t *testing.T) {
	b := newBox(t, "try", "cat=/a/file", "write=/a/new", "write=/a/below/new", "write=/ro/new", "write=/ro/below/new", "write=/rro/below/new",
		"cat=/etc/one", "cat=/a/deep/file", "cat=/proc/self/mountinfo", "write=/proc/sys/kernel/domainname", "list=/masked")
	vol := b.volume("vol")
	must(t, os.MkdirAll(filepath.Join(b.lower, "masked/thing"), 0o755))
	b.config.MaskedPaths, b.config.ReadonlyPaths = []string{"/masked", "/etc/passwd", "/no"}, []string{"/proc/sys"}
	b.config.Mounts = []runtime.Mount{
		{Source: vol, Destination: "/a/deep"}, // before /a: what is nearer the root goes first
		{Source: vol, Destination: "/a", Propagation: runtime.PropagationHostToContainer},
		{Source: vol, Destination: "/ro", Readonly: true},
		{Source: vol, Destination: "/rro", Readonly: true, RecursiveReadOnly: true},
		{Source: filepath.Join(vol, "file"), Destination: "/etc/one"},
	}
	out, exit := b.run()
	for _, want := range []string{"cat=/a/file: vol", "write=/a/new: ok", "write=/a/below/new: ok", "write=/ro/new: open /ro/new: read-only file system",
		"write=/ro/below/new: ok", "write=/rro/below/new: open /rro/below/new: read-only", "cat=/etc/one: vol", "cat=/a/deep/file: vol",
		"write=/proc/sys/kernel/domainname: open /proc/sys/kernel/domainname: read-only", "list=/masked: 0"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q", want)
		}
	}
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) > 6 && f[4] == "/a" && !strings.HasPrefix(f[6], "master:") && shared(t) {
			t.Errorf("%s is no slave", line)
		}
	}
	if t.Failed() {
		t.Logf("%s%+v", out, exit)
	}
}

// shared reports whether mounts spread here at all.
func shared(t *testing.T) bool {
	for line := range strings.Lines(read("/proc/self/mountinfo")) {
		if f := strings.Fields(line); f[4] == "/" {
			return strings.HasPrefix(f[6], "shared:")
		}
	}
	return false
}

func TestLinksOfAnImageLeadNowhereElse(t *testing.T) {
	outside := t.TempDir()
	must(t, os.Chmod(outside, 0o777))
	b := newBox(t, "try", "cat=/etc/resolv.conf", "cat=/var/run/secret/file", "cat=/link/file")
	must(t, os.WriteFile(filepath.Join(outside, "victim"), []byte("untouched"), 0o666))
	must(t, os.Symlink(filepath.Join(outside, "made"), filepath.Join(b.lower, "etc/resolv.conf")))
	must(t, os.MkdirAll(filepath.Join(b.lower, "var"), 0o755))
	must(t, os.Symlink("../run", filepath.Join(b.lower, "var/run")))
	must(t, os.Symlink("../../../../../../../.."+outside, filepath.Join(b.lower, "link")))
	must(t, os.Symlink(filepath.Join(outside, "victim"), filepath.Join(b.lower, "etc/mtab")))
	vol := b.volume("vol")
	for _, to := range []string{"/var/run/secret", "/link"} {
		b.config.Mounts = append(b.config.Mounts, runtime.Mount{Source: vol, Destination: to})
	}
	for _, to := range []string{"/etc/resolv.conf", "/etc/mtab"} {
		b.config.Mounts = append(b.config.Mounts, runtime.Mount{Source: filepath.Join(vol, "file"), Destination: to})
	}
	b.config.Devices = []runtime.Device{{HostPath: "/dev/null", ContainerPath: "/link/null", Permissions: "r"}}
	b.place.Devices = map[string][]specs.LinuxDevice{"/dev/null": {{Path: "/dev/null", Type: "c", Major: 1, Minor: 3}}}
	out, exit := b.run()
	if out != "cat=/etc/resolv.conf: vol\ncat=/var/run/secret/file: vol\ncat=/link/file: vol\n" {
		t.Errorf("%s%+v", out, exit)
	}
	entries, err := os.ReadDir(outside)
	if err != nil || len(entries) != 1 || read(filepath.Join(outside, "victim")) != "untouched" {
		t.Errorf("outside there is %v, %v", entries, err)
	}
}

func TestReadonlyRoot(t *testing.T) {
	b := newBox(t, "try", "write=/new", "write=/dev/shm/new", "write=/tmp/new")
	b.config.ReadonlyRootfs = true
	if out, _ := b.run(); out != "write=/new: open /new: read-only file system\nwrite=/dev/shm/new: ok\nwrite=/tmp/new: open /tmp/new: read-only file system\n" {
		t.Error(out)
	}
}

func TestPrivileged(t *testing.T) {
	b := newBox(t, "try", "mknod=/tmp/node", "mount=/tmp", "write=/proc/sys/kernel/domainname", "write=/sys/fs/cgroup/x")
	b.config.Privileged = true
	b.place.CgroupMountOptions = nil
	out, exit := b.run()
	if strings.Contains(out, "mknod=/tmp/node: operation not permitted") || // there may be no such device
		!strings.Contains(out, "mount=/tmp: ok\nwrite=/proc/sys/kernel/domainname: ok\n") {
		t.Errorf("%s%+v", out, exit)
	}
}

func TestSysctlAndPropagation(t *testing.T) {
	b := newBox(t, "try", "cat=/proc/sys/net/ipv4/ip_unprivileged_port_start", "cat=/proc/self/mountinfo")
	b.change = func(s *specs.Spec) {
		s.Linux.Sysctl = map[string]string{"net.ipv4.ip_unprivileged_port_start": "7"}
		s.Linux.RootfsPropagation = "rshared"
	}
	out, exit := b.run()
	if !strings.HasPrefix(out, "cat=/proc/sys/net/ipv4/ip_unprivileged_port_start: 7\n") {
		t.Errorf("%s%+v", out, exit)
	}
	_, table, _ := strings.Cut(out, "mountinfo: ")
	for line := range strings.Lines(table) {
		if f := strings.Fields(line); len(f) > 6 && f[4] == "/" && !strings.HasPrefix(f[6], "shared:") {
			t.Errorf("root is not shared: %s", line)
		}
	}
}

func TestOwnDev(t *testing.T) {
	b := newBox(t, "try", "write=/dev/null", "list=/dev/pts")
	b.config.Mounts = []runtime.Mount{{Source: "/dev", Destination: "/dev"}}
	if out, exit := b.run(); !strings.HasPrefix(out, "write=/dev/null: ok") {
		t.Errorf("%s%+v", out, exit)
	}
}
