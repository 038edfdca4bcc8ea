package spec

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cricket-cri/cricket/runtime"
)

var update = flag.Bool("update", false, "write the golden files")

// config is a container as a kubelet asks for it.
func config() runtime.Config {
	adj := 900
	caps := DefaultCapabilities()
	return runtime.Config{
		ID:           "c1",
		Args:         []string{"sleep", "1"},
		Env:          []string{"PATH=/bin"},
		Cwd:          "/srv",
		User:         specs.User{UID: 1000, GID: 1000, AdditionalGids: []uint32{1000}},
		Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
		MaskedPaths:  []string{"/proc/kcore"}, ReadonlyPaths: []string{"/proc/sys"},
		PID:         runtime.NamespaceContainer,
		Annotations: map[string]string{"io.kubernetes.cri.container-type": "container"},
		Resources: &runtime.Resources{
			CPUShares: 102, MemoryLimit: 1 << 28, MemorySwapLimit: 1 << 28, OOMScoreAdj: &adj,
		},
		Mounts: []runtime.Mount{
			{Destination: "/etc/hosts", Source: "/var/lib/kubelet/hosts", Propagation: runtime.PropagationPrivate},
			{Destination: "/data", Source: "/srv/data", Readonly: true, Propagation: runtime.PropagationHostToContainer},
		},
	}
}

// place is an ordinary pod's.
func place() Place {
	return Place{
		Rootfs: "rootfs",
		Namespaces: []specs.LinuxNamespace{
			{Type: specs.NetworkNamespace, Path: "/run/ns/net"},
			{Type: specs.IPCNamespace, Path: "/run/ns/ipc"},
			{Type: specs.UTSNamespace, Path: "/run/ns/uts"},
			{Type: specs.PIDNamespace, Path: "/run/ns/pid"},
		},
		Mounts: []specs.Mount{
			{Destination: "/dev/shm", Type: "bind", Source: "/run/shm", Options: []string{"rbind", "rprivate", "rw"}},
			{Destination: "/etc/hosts", Type: "bind", Source: "/run/hosts", Options: []string{"rbind", "rprivate", "rw"}},
			{Destination: "/etc/resolv.conf", Type: "bind", Source: "/run/resolv.conf", Options: []string{"rbind", "rprivate", "rw"}},
		},
		CgroupsPath:      "/kubepods/pod1/c1",
		Hostname:         "pod",
		CgroupV2:         true,
		HostCapabilities: slices.DeleteFunc(AllCapabilities(), func(c string) bool { return c == "CAP_SYS_RESOURCE" }),
	}
}

func userNSPlace() Place {
	p := place()
	p.UIDMappings = []specs.LinuxIDMapping{{HostID: 65536, Size: 65536}}
	p.GIDMappings = []specs.LinuxIDMapping{{HostID: 65536, Size: 65536}}
	return p
}

func build(t *testing.T, c runtime.Config, p Place) *specs.Spec {
	t.Helper()
	s, err := Build(c, p)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestGolden(t *testing.T) {
	privileged := config()
	privileged.Privileged = true
	privileged.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActErrno}
	privilegedPlace := place()
	privilegedPlace.HostDevices = []specs.LinuxDevice{{Path: "/dev/kvm", Type: "c", Major: 10, Minor: 232}}
	hostNetwork := userNSPlace()
	hostNetwork.HostNetwork = true
	hostNetwork.Namespaces = hostNetwork.Namespaces[1:]
	v1 := place()
	v1.CgroupV2 = false

	for name, in := range map[string]struct {
		c runtime.Config
		p Place
	}{
		"unprivileged":     {config(), place()},
		"privileged":       {privileged, privilegedPlace},
		"userns-host-net":  {config(), hostNetwork},
		"unprivileged-cg1": {config(), v1},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := json.MarshalIndent(build(t, in.c, in.p), "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, '\n')
			file := filepath.Join("testdata", name+".json")
			if *update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("differs from %s (-update writes it):\n%s", file, got)
			}
		})
	}
}

func TestBuildRefuses(t *testing.T) {
	for name, change := range map[string]func(*runtime.Config, *Place){
		"no command":           func(c *runtime.Config, _ *Place) { c.Args = nil },
		"relative directory":   func(c *runtime.Config, _ *Place) { c.Cwd = "srv" },
		"no root":              func(_ *runtime.Config, p *Place) { p.Rootfs = "" },
		"half a user ns":       func(_ *runtime.Config, p *Place) { p.UIDMappings = userNSPlace().UIDMappings },
		"no PID mode":          func(c *runtime.Config, _ *Place) { c.PID = "" },
		"no PID ns to join":    func(c *runtime.Config, p *Place) { c.PID = runtime.NamespaceTarget; p.Namespaces = nil },
		"relative destination": func(c *runtime.Config, _ *Place) { c.Mounts[0].Destination = "x" },
		"relative source":      func(c *runtime.Config, _ *Place) { c.Mounts[0].Source = "x" },
		"writable rro":         func(c *runtime.Config, _ *Place) { c.Mounts[0].RecursiveReadOnly = true },
		"propagation":          func(c *runtime.Config, _ *Place) { c.Mounts[0].Propagation = "x" },
		"unknown device":       func(c *runtime.Config, _ *Place) { c.Devices = []runtime.Device{{HostPath: "/dev/x"}} },
		"missing image volume": func(c *runtime.Config, _ *Place) {
			c.Mounts[0] = runtime.Mount{Destination: "/i", Image: []digest.Digest{"sha256:x"}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, p := config(), place()
			change(&c, &p)
			if _, err := Build(c, p); !errors.Is(err, errdefs.ErrInvalidArgument) {
				t.Errorf("got %v, want invalid argument", err)
			}
		})
	}
}

func TestNamespaces(t *testing.T) {
	joined := specs.LinuxNamespace{Type: specs.PIDNamespace, Path: "/run/ns/pid"}
	own := specs.LinuxNamespace{Type: specs.PIDNamespace}
	for name, tc := range map[string]struct {
		mode     runtime.NamespaceMode
		has, not *specs.LinuxNamespace
	}{
		"pod":       {runtime.NamespacePod, &joined, &own},
		"target":    {runtime.NamespaceTarget, &joined, &own},
		"container": {runtime.NamespaceContainer, &own, &joined},
		"node":      {runtime.NamespaceNode, nil, &joined},
	} {
		t.Run(name, func(t *testing.T) {
			c := config()
			c.PID = tc.mode
			got := build(t, c, place()).Linux.Namespaces
			if tc.has != nil && !slices.Contains(got, *tc.has) {
				t.Errorf("%v lacks %v", got, *tc.has)
			}
			if slices.Contains(got, *tc.not) {
				t.Errorf("%v has %v", got, *tc.not)
			}
		})
	}
	t.Run("user", func(t *testing.T) {
		if got := build(t, config(), userNSPlace()).Linux.Namespaces; !makesNew(got, specs.UserNamespace) {
			t.Errorf("%v lacks a user namespace", got)
		}
	})
	t.Run("hostname", func(t *testing.T) {
		if got := build(t, config(), place()).Hostname; got != "" {
			t.Errorf("joined UTS namespace gets the name %q", got)
		}
		p := place()
		p.Namespaces[2].Path = ""
		if got := build(t, config(), p).Hostname; got != "pod" {
			t.Errorf("new UTS namespace gets the name %q", got)
		}
	})
}

func TestAdjust(t *testing.T) {
	c := config()
	c.Adjust = func(s *specs.Spec) error { s.Hostname = "adjusted"; return nil }
	if got := build(t, c, place()).Hostname; got != "adjusted" {
		t.Errorf("hostname %q", got)
	}
	want := errors.New("no")
	c.Adjust = func(*specs.Spec) error { return want }
	if _, err := Build(c, place()); !errors.Is(err, want) {
		t.Errorf("got %v", err)
	}
}

func TestBuildLeavesItsArguments(t *testing.T) {
	c, p := config(), place()
	c.ReadonlyRootfs = true
	before, _ := json.Marshal([]any{c, p})
	s := build(t, c, p)
	s.Process.Args[0], s.Mounts[len(s.Mounts)-1].Options[0] = "x", "x"
	s.Annotations["x"] = "x"
	if after, _ := json.Marshal([]any{c, p}); !bytes.Equal(before, after) {
		t.Errorf("changed to %s", after)
	}
}
