package spec

import (
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cricket-cri/cricket/runtime"
)

// mount finds the only mount at a destination.
func mount(t *testing.T, s *specs.Spec, destination string) specs.Mount {
	t.Helper()
	var found []specs.Mount
	for _, m := range s.Mounts {
		if m.Destination == destination {
			found = append(found, m)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d mounts at %s", len(found), destination)
	}
	return found[0]
}

func TestMountOrder(t *testing.T) {
	c := config()
	c.Mounts = []runtime.Mount{
		{Destination: "/a/b/c", Source: "/1"},
		{Destination: "/a//b/", Source: "/2"},
		{Destination: "/z", Source: "/3"},
		{Destination: "/a/b", Source: "/4"},
	}
	var got []string
	for _, m := range build(t, c, place()).Mounts[6:] {
		got = append(got, m.Destination)
	}
	// The defaults but /dev/shm, which the sandbox has, come first. Sorting is stable.
	want := []string{"/z", "/a//b/", "/a/b", "/dev/shm", "/etc/hosts", "/etc/resolv.conf", "/a/b/c"}
	if !slices.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func TestMountsReplaceDefaults(t *testing.T) {
	c := config()
	c.Mounts = []runtime.Mount{{Destination: "/dev/", Source: "/dev"}, {Destination: "/etc/resolv.conf", Source: "/mine"}}
	s := build(t, c, place())
	for _, m := range s.Mounts {
		if m.Destination == "/dev" || m.Destination == "/dev/pts" || m.Destination == "/dev/mqueue" {
			t.Errorf("%s would hide the container's own /dev", m.Destination)
		}
	}
	if m := mount(t, s, "/dev/shm"); m.Source != "/run/shm" {
		t.Errorf("/dev/shm is %v", m)
	}
	if m := mount(t, s, "/etc/resolv.conf"); m.Source != "/mine" {
		t.Errorf("resolv.conf is %v", m)
	}
}

func TestMountOptions(t *testing.T) {
	image := []digest.Digest{"sha256:x"}
	for name, tc := range map[string]struct {
		m           runtime.Mount
		want        []string
		propagation string
	}{
		"writable":      {runtime.Mount{}, []string{"rbind", "rprivate", "rw"}, ""},
		"read-only":     {runtime.Mount{Readonly: true}, []string{"rbind", "rprivate", "ro"}, ""},
		"recursive":     {runtime.Mount{Readonly: true, RecursiveReadOnly: true}, []string{"rbind", "rprivate", "rro"}, ""},
		"slave":         {runtime.Mount{Propagation: runtime.PropagationHostToContainer}, []string{"rbind", "rslave", "rw"}, "rslave"},
		"shared":        {runtime.Mount{Propagation: runtime.PropagationBidirectional}, []string{"rbind", "rshared", "rw"}, "rshared"},
		"more options":  {runtime.Mount{Options: []string{"noexec"}}, []string{"rbind", "rprivate", "rw", "noexec"}, ""},
		"image":         {runtime.Mount{Image: image}, []string{"rbind", "rprivate", "ro"}, ""},
		"image, rro":    {runtime.Mount{Image: image, RecursiveReadOnly: true}, []string{"rbind", "rprivate", "rro"}, ""},
		"private, said": {runtime.Mount{Propagation: runtime.PropagationPrivate}, []string{"rbind", "rprivate", "rw"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			c, p := config(), place()
			tc.m.Destination = "/m/"
			if tc.m.Image == nil {
				tc.m.Source = "/src"
			}
			p.ImageMounts = map[string]string{"/m": "volumes/0"}
			c.Mounts = []runtime.Mount{tc.m}
			s := build(t, c, p)
			if got := mount(t, s, "/m/").Options; !slices.Equal(got, tc.want) {
				t.Errorf("got %v, want %v", got, tc.want)
			}
			if s.Linux.RootfsPropagation != tc.propagation {
				t.Errorf("root propagation %q, want %q", s.Linux.RootfsPropagation, tc.propagation)
			}
		})
	}
}

func TestSharedWinsOverSlave(t *testing.T) {
	slave := runtime.Mount{Destination: "/a", Source: "/a", Propagation: runtime.PropagationHostToContainer}
	shared := runtime.Mount{Destination: "/b", Source: "/b", Propagation: runtime.PropagationBidirectional}
	for _, mounts := range [][]runtime.Mount{{slave, shared}, {shared, slave}} {
		c := config()
		c.Mounts = mounts
		if got := build(t, c, place()).Linux.RootfsPropagation; got != "rshared" {
			t.Errorf("got %q", got)
		}
	}
}

func TestIDMappedMount(t *testing.T) {
	c := config()
	ids := []specs.LinuxIDMapping{{HostID: 65536, Size: 65536}}
	c.Mounts = []runtime.Mount{{Destination: "/m", Source: "/s", UIDMappings: ids, GIDMappings: ids}}
	m := mount(t, build(t, c, userNSPlace()), "/m")
	if !slices.Equal(m.UIDMappings, ids) || !slices.Equal(m.GIDMappings, ids) {
		t.Errorf("got %v %v", m.UIDMappings, m.GIDMappings)
	}
}

func TestReadonlyRootfs(t *testing.T) {
	c := config()
	c.ReadonlyRootfs = true
	s := build(t, c, place())
	if !s.Root.Readonly {
		t.Error("the root is writable")
	}
	if got := mount(t, s, "/etc/resolv.conf").Options; !slices.Contains(got, "ro") || slices.Contains(got, "rw") {
		t.Errorf("resolv.conf has %v", got)
	}
	if got := mount(t, s, "/dev/shm").Options; !slices.Contains(got, "rw") {
		t.Errorf("/dev/shm has %v", got)
	}
	// The user's own mounts stay as they were asked for.
	if got := mount(t, s, "/etc/hosts").Options; !slices.Contains(got, "rw") {
		t.Errorf("/etc/hosts has %v", got)
	}
}

func TestKernelFileSystems(t *testing.T) {
	hostAll := func(p *Place) { p.HostNetwork, p.HostPID, p.HostIPC = true, true, true }
	for name, tc := range map[string]struct {
		place  Place
		change func(*Place)
		pid    runtime.NamespaceMode
		want   map[string]string // destination -> type
	}{
		"plain":                   {place(), func(*Place) {}, runtime.NamespacePod, map[string]string{"/proc": "proc", "/sys": "sysfs", "/dev/mqueue": "mqueue"}},
		"host, no user ns":        {place(), hostAll, runtime.NamespacePod, map[string]string{"/proc": "proc", "/sys": "sysfs", "/dev/mqueue": "mqueue"}},
		"user ns":                 {userNSPlace(), func(*Place) {}, runtime.NamespacePod, map[string]string{"/proc": "proc", "/sys": "sysfs", "/dev/mqueue": "mqueue"}},
		"user ns, host":           {userNSPlace(), hostAll, runtime.NamespacePod, map[string]string{"/proc": "bind", "/sys": "bind", "/dev/mqueue": "bind"}},
		"user ns, host, own pids": {userNSPlace(), hostAll, runtime.NamespaceContainer, map[string]string{"/proc": "proc", "/sys": "bind"}},
	} {
		t.Run(name, func(t *testing.T) {
			tc.change(&tc.place)
			c := config()
			c.PID = tc.pid
			s := build(t, c, tc.place)
			for destination, kind := range tc.want {
				if got := mount(t, s, destination); got.Type != kind {
					t.Errorf("%s is %v, want type %s", destination, got, kind)
				}
			}
		})
	}
}

func TestTerminalGroup(t *testing.T) {
	p := userNSPlace()
	if got := mount(t, build(t, config(), p), "/dev/pts").Options; !slices.Contains(got, "gid=5") {
		t.Errorf("got %v", got)
	}
	p.GIDMappings[0].Size = 5
	if got := mount(t, build(t, config(), p), "/dev/pts").Options; slices.Contains(got, "gid=5") {
		t.Errorf("group 5 has no mapping, got %v", got)
	}
}

func TestCgroupMount(t *testing.T) {
	p := place()
	p.CgroupMountOptions = []string{"nsdelegate"}
	c := config()
	if got := mount(t, build(t, c, p), "/sys/fs/cgroup").Options; slices.Contains(got, "nsdelegate") {
		t.Errorf("in a cgroup namespace of its own: %v", got)
	}
	c.Privileged = true
	got := mount(t, build(t, c, p), "/sys/fs/cgroup").Options
	if !slices.Contains(got, "nsdelegate") || !slices.Contains(got, "rw") {
		t.Errorf("privileged: %v", got)
	}
}
