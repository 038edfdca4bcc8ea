package spec

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
)

func TestDevices(t *testing.T) {
	c, p := config(), place()
	p.Devices = map[string][]specs.LinuxDevice{
		"/dev/fuse": {{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229}},
		"/dev/snd":  {{Path: "/dev/snd/seq", Type: "c", Major: 116, Minor: 1}, {Path: "/dev/snd/sub/x", Type: "b", Major: 7, Minor: 1}},
	}
	p.HostDevices = []specs.LinuxDevice{{Path: "/dev/my", Type: "c", Major: 1, Minor: 3}, {Path: "/dev/kvm", Type: "c", Major: 10, Minor: 232}}
	c.Devices = []runtime.Device{
		{HostPath: "/dev/fuse", ContainerPath: "/dev/my", Permissions: "r"},
		{HostPath: "/dev/snd", ContainerPath: "/snd", Permissions: "rw"},
	}
	paths := func(s *specs.Spec) (out []string) {
		for _, d := range s.Linux.Devices {
			out = append(out, d.Path)
		}
		return out
	}

	s := build(t, c, p)
	if got, want := paths(s), []string{"/dev/my", "/snd/seq", "/snd/sub/x"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	rules := s.Linux.Resources.Devices
	if len(rules) != 5 || rules[0].Allow || rules[0].Access != "rwm" {
		t.Fatalf("rules %v", rules)
	}
	if r := rules[1]; !r.Allow || r.Type != "c" || *r.Major != 10 || *r.Minor != 200 || r.Access != "rwm" {
		t.Errorf("rule of /dev/net/tun: %v", r)
	}
	if r := rules[2]; !r.Allow || *r.Major != 10 || *r.Minor != 229 || r.Access != "r" {
		t.Errorf("rule of /dev/fuse: %v", r)
	}
	if p.Devices["/dev/fuse"][0].Path != "/dev/fuse" {
		t.Error("Build changed the place")
	}

	c.Privileged = true
	s = build(t, c, p)
	if got, want := paths(s), []string{"/dev/my", "/snd/seq", "/snd/sub/x", "/dev/kvm"}; !slices.Equal(got, want) {
		t.Errorf("privileged: got %v, want %v", got, want)
	}
	if s.Linux.Devices[0].Minor != 229 {
		t.Error("privileged: the host's device hides the one that was asked for")
	}
	if rules := s.Linux.Resources.Devices; len(rules) != 1 || !rules[0].Allow {
		t.Errorf("privileged: rules %v", rules)
	}

	c.Devices[0].Permissions = "rx"
	if _, err := Build(c, p); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("permissions rx: got %v", err)
	}
}

func TestReadDevices(t *testing.T) {
	dir := t.TempDir()
	for _, sub := range []string{"sub", "pts"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	null := int(unix.Mkdev(1, 3))
	for _, name := range []string{"null", "sub/null", "pts/0", "console", "ptmx"} {
		if err := unix.Mknod(filepath.Join(dir, name), unix.S_IFCHR|0o600, null); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink("null", link); err != nil {
		t.Fatal(err)
	}

	found, err := ReadDevices(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range found {
		got = append(got, d.Path)
	}
	if want := []string{filepath.Join(dir, "null"), filepath.Join(dir, "sub/null")}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if d := found[0]; d.Type != "c" || d.Major != 1 || d.Minor != 3 || *d.FileMode != 0o600 {
		t.Errorf("got %+v", d)
	}
	if one, err := ReadDevices(link); err != nil || len(one) != 1 || one[0].Path != link || one[0].Minor != 3 {
		t.Errorf("link: %v %v", one, err)
	}
	if _, err := ReadDevices(file); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("file: %v", err)
	}
	if _, err := ReadDevices(filepath.Join(dir, "none")); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("missing: %v", err)
	}
}

func TestCapabilityNames(t *testing.T) {
	if got, want := capabilityNames(1<<0|1<<21|1<<40|1<<60), []string{"CAP_CHOWN", "CAP_SYS_ADMIN", "CAP_CHECKPOINT_RESTORE"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	own, err := ReadCapabilities()
	if err != nil || !slices.Contains(own, "CAP_CHOWN") {
		t.Errorf("own: %v %v", own, err)
	}
}
