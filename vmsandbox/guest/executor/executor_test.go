package executor

import (
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestWhatAContainerSees(t *testing.T) {
	b := newBox(t)
	b.config.Cwd = "/srv/made"
	b.config.User = specs.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{5, 7}}
	b.config.NoNewPrivileges = true
	b.config.MaskedPaths = []string{"/proc/kcore", "/proc/acpi", "/proc/scsi", "/no/such"}
	b.config.ReadonlyPaths = []string{"/proc/sys"}
	r := b.report()
	if r.Pid != 1 || r.UID != 1000 || r.GID != 1001 || !slices.Equal(r.Groups, []int{5, 7}) || r.Umask != 0o022 {
		t.Errorf("process %+v", r)
	}
	if r.Hostname != "box" || r.Cwd != "/srv/made" || !slices.Contains(r.Env, "HOME=/srv/web") {
		t.Errorf("host name %q, directory %q, environment %q", r.Hostname, r.Cwd, r.Env)
	}
	if r.Status["NoNewPrivs"] != "1" || r.Status["CapEff"] != "0000000000000000" || r.Status["CapBnd"] != "00000000a80425fb" {
		t.Errorf("status %v", r.Status)
	}
	if r.Status["SigIgn"] != "0000000000000000" || r.Status["SigBlk"] != "0000000000000000" {
		t.Errorf("signals are ignored (%s) or blocked (%s)", r.Status["SigIgn"], r.Status["SigBlk"])
	}
	for point, want := range map[string]string{
		"/": "rw,relatime overlay", "/proc": "rw,nosuid,nodev,noexec,relatime proc", "/dev": "rw,nosuid tmpfs",
		"/dev/pts": "rw,nosuid,noexec,relatime devpts", "/dev/mqueue": "rw,nosuid,nodev,noexec,relatime mqueue",
		"/sys": "ro,nosuid,nodev,noexec,relatime sysfs", "/sys/fs/cgroup": "ro,nosuid,nodev,noexec,relatime cgroup2",
		"/proc/sys": "ro,nosuid,nodev,noexec,relatime proc",
	} {
		if !strings.HasPrefix(r.Mounts[point], want) {
			t.Errorf("mount %s is %q, want %q", point, r.Mounts[point], want)
		}
	}
	for _, d := range r.Descriptors {
		if fd, _, _ := strings.Cut(d, " "); len(fd) > 1 || fd > "4" { // Go has some itself
			t.Errorf("descriptor %s", d)
		}
	}
}
