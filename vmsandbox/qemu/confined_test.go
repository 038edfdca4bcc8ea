package qemu

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime/monitor/monitortest"
	"github.com/cricket-cri/cricket/vmsandbox/vmm"
)

// confinedHypervisor is what a node has: QEMU is confined by the monitor's program.
func confinedHypervisor(t testing.TB, state string) vmm.Hypervisor {
	t.Helper()
	launcher, mon := monitortest.Run(t)
	h, err := New(Options{Program: program, State: state, Monitor: mon, Confine: &Confine{
		Launcher: []string{launcher, "confine"}, FirstUser: DefaultFirstUser, Users: 8, Files: DefaultFiles(program),
	}})
	if err != nil {
		t.Fatal(err)
	}
	removeAtEnd(t, h)
	return h
}

// removeAtEnd removes what a test that failed has left.
func removeAtEnd(t testing.TB, h vmm.Hypervisor) {
	t.Helper()
	t.Cleanup(func() {
		ids, err := h.List(context.Background())
		if err != nil {
			t.Error(err)
		}
		for _, id := range ids {
			if err := h.Remove(context.Background(), id); err != nil {
				t.Error(err)
			}
		}
	})
}

// checkConfined looks at what the kernel says of a machine's process.
func checkConfined(t *testing.T, m vmm.Machine, volumes string) {
	t.Helper()
	status := map[string]string{}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", m.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		key, value, _ := strings.Cut(line, ":")
		status[key] = strings.Join(strings.Fields(value), " ")
	}
	caps := "0000000000000000"
	if volumes != "" {
		caps = "000000000000001b" // CHOWN, DAC_OVERRIDE, FOWNER, FSETID
	}
	want := map[string]string{"CapEff": caps, "CapPrm": caps, "CapBnd": caps, "CapAmb": caps, "NoNewPrivs": "1", "Seccomp": "2", "Groups": ""}
	for key, value := range want {
		if status[key] != value {
			t.Errorf("%s of %s is %q, not %q", key, m.ID(), status[key], value)
		}
	}
	for _, key := range []string{"Uid", "Gid"} {
		if ids := strings.Fields(status[key]); ids[0] < "2000000000" || slices.ContainsFunc(ids, func(id string) bool { return id != ids[0] }) {
			t.Errorf("%s of %s is %q", key, m.ID(), status[key])
		}
	}
	for _, ns := range []string{"mnt", "net", "ipc", "uts", "cgroup"} {
		theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", m.Pid(), ns))
		ours, _ := os.Readlink("/proc/self/ns/" + ns)
		if err != nil || theirs == ours {
			t.Errorf("%s shares the namespace %s with the host, %v", m.ID(), ns, err)
		}
	}
	checkRoot(t, m, volumes)
}

// checkRoot compares everything that the process could reach with what it may.
func checkRoot(t *testing.T, m vmm.Machine, volumes string) {
	t.Helper()
	root := fmt.Sprintf("/proc/%d/root", m.Pid())
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !slices.Contains([]string{"etc", "lib", "lib64", "proc", "usr", "tmp"}, e.Name()) {
			t.Errorf("%s can see /%s", m.ID(), e.Name())
		}
	}
	for _, hidden := range []string{"/etc/passwd", "/proc/1", "/usr/bin/env", "/tmp/" + filepath.Base(filepath.Dir(m.Dir())) + "/" + m.ID() + "/" + recordName} {
		if _, err := os.Lstat(root + hidden); err == nil {
			t.Errorf("%s can see %s", m.ID(), hidden)
		}
	}
	mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", m.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	slave := false
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		options := strings.Split(f[5], ",")
		if f[4] == volumes {
			slave = strings.Contains(line, " master:")
		}
		if f[4] != "/proc/self/fd" && !slices.Contains(options, "ro") {
			t.Errorf("%s can write to %s", m.ID(), line)
		}
		if !slices.Contains(options, "nosuid") || !slices.Contains(options, "nodev") {
			t.Errorf("programs and devices work in %s: %s", m.ID(), line)
		}
	}
	if volumes != "" && !slave {
		t.Errorf("the directory of volumes is no slave:\n%s", mounts)
	}
}

// shareVolumes lets the guest use a directory that the host mounts after the start.
func shareVolumes(t *testing.T, g *guest, volumes string) {
	t.Helper()
	source := t.TempDir()
	if err := os.WriteFile(filepath.Join(source, "secret"), []byte("of another"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(filepath.Join(source, "secret"), 1234, 1234); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(volumes, "late"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(source, filepath.Join(volumes, "late"), "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	g.do(t, "9p /v")
	if got := g.do(t, "cat /v/late/secret"); got != "of another" {
		t.Errorf("the guest reads %q", got)
	}
	if got := g.do(t, "stat /v/late/secret"); got != "100600 1234 1234 10" {
		t.Errorf("the guest sees %q", got)
	}
	g.do(t, "put /v/late/mine 4321 54321 4755 hello")
	g.do(t, "mkdir /v/late/group 0 7777 2770")
	for _, call := range []string{"put /v/beside 0 0 644 hello", "mkdir /v/1 0 0 755"} {
		if got := g.try(call); !strings.HasPrefix(got, "error") {
			t.Errorf("%s: the guest can write beside its volumes", call)
		}
	}
	if got := g.try("mknod /v/late/null"); !strings.HasPrefix(got, "error") {
		t.Error("the guest made a device on the host")
	}
	for name, want := range map[string][3]uint32{
		"mine":  {unix.S_IFREG | 0o4755, 4321, 54321},
		"group": {unix.S_IFDIR | 0o2770, 0, 7777},
	} {
		st, err := os.Stat(filepath.Join(source, name))
		if err != nil {
			t.Fatal(err)
		}
		s := st.Sys().(*syscall.Stat_t)
		if got := [3]uint32{s.Mode, s.Uid, s.Gid}; got != want {
			t.Errorf("%s on the host is %o, not %o", name, got, want)
		}
	}
	g.do(t, "unmount /v")
	if err := unix.Unmount(filepath.Join(volumes, "late"), 0); err != nil {
		t.Errorf("the host cannot take the volume back: %v", err)
	}
}
