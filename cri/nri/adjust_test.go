package nri

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/containerd/nri/pkg/api"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/spec"
)

func specification() *specs.Spec {
	return &specs.Spec{
		Process: &specs.Process{
			Args: []string{"old"}, Env: []string{"KEEP=1", "CHANGE=old", "DROP=x"},
			Rlimits: []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 1, Hard: 2}},
		},
		Mounts:      []specs.Mount{{Destination: "/proc", Type: "proc"}, {Destination: "/old", Type: "bind"}, {Destination: "/gone", Type: "bind"}},
		Annotations: map[string]string{"drop": "x"},
		Linux: &specs.Linux{
			Devices:    []specs.LinuxDevice{{Path: "/dev/gone"}},
			Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.NetworkNamespace, Path: "/n"}},
			Seccomp:    &specs.LinuxSeccomp{DefaultAction: specs.ActErrno},
		},
	}
}

func none(*specs.Spec, []string) error { return errors.New("no CDI") }

func TestAdjust(t *testing.T) {
	s, a := specification(), &api.ContainerAdjustment{}
	a.AddAnnotation("a", "b")
	a.RemoveAnnotation("drop")
	a.SetArgs([]string{"new", "args"})
	a.AddEnv("CHANGE", "new")
	a.RemoveEnv("DROP")
	a.AddEnv("ADD", "2")
	a.AddMount(&api.Mount{Source: "/a", Destination: "/old", Type: "bind", Options: []string{"ro"}})
	a.RemoveMount("/gone")
	a.AddHooks(&api.Hooks{Prestart: []*api.Hook{{Path: "/a"}}, CreateRuntime: []*api.Hook{{Path: "/b"}}, CreateContainer: []*api.Hook{{Path: "/c"}},
		StartContainer: []*api.Hook{{Path: "/d"}}, Poststart: []*api.Hook{{Path: "/e"}}, Poststop: []*api.Hook{{Path: "/f"}}})
	a.AddRlimit("RLIMIT_NOFILE", 20, 10)
	a.AddDevice(&api.LinuxDevice{Path: "/dev/new", Type: "c", Major: 10, Minor: 229})
	a.RemoveDevice("/dev/gone")
	a.AddCDIDevice(&api.CDIDevice{Name: "v.example/net=a"})
	a.SetLinuxCPUShares(7)
	a.SetLinuxCPUQuota(8)
	a.SetLinuxCPUPeriod(9)
	a.SetLinuxCPUSetCPUs("0")
	a.SetLinuxCPUSetMems("1")
	a.SetLinuxMemoryLimit(1 << 20)
	a.SetLinuxPidLimits(11)
	a.AddLinuxUnified("memory.high", "12")
	a.AddLinuxHugepageLimit("2MB", 13)
	a.SetLinuxOomScoreAdj(ptr(14))
	a.SetLinuxCgroupsPath("/c")
	a.SetLinuxSysctl("net.a", "1")
	a.AddOrReplaceNamespace(&api.LinuxNamespace{Type: "network", Path: "/other"})
	a.SetLinuxSeccompPolicy(&api.LinuxSeccomp{DefaultAction: "SCMP_ACT_ALLOW"})

	var injected []string
	inject := func(_ *specs.Spec, names []string) error { injected = names; return nil }
	if err := Adjust(s, a, Limits{CgroupV2: true, Swap: true, Hugetlb: true}, inject); err != nil {
		t.Fatal(err)
	}
	p, l, r := s.Process, s.Linux, s.Linux.Resources
	for what, ok := range map[string]bool{
		"annotations": s.Annotations["a"] == "b" && len(s.Annotations) == 1,
		"args":        slices.Equal(p.Args, []string{"new", "args"}),
		"environment": slices.Equal(p.Env, []string{"KEEP=1", "CHANGE=new", "ADD=2"}),
		"mounts":      len(s.Mounts) == 2 && s.Mounts[0].Destination == "/old" && s.Mounts[0].Source == "/a",
		"hooks": s.Hooks.Prestart[0].Path == "/a" && s.Hooks.CreateRuntime[0].Path == "/b" && s.Hooks.CreateContainer[0].Path == "/c" && //nolint:staticcheck // deprecated, but in use
			s.Hooks.StartContainer[0].Path == "/d" && s.Hooks.Poststart[0].Path == "/e" && s.Hooks.Poststop[0].Path == "/f",
		"one limit of a type": len(p.Rlimits) == 1 && p.Rlimits[0].Hard == 20,
		"device":              len(l.Devices) == 1 && l.Devices[0].Path == "/dev/new" && *r.Devices[0].Minor == 229 && r.Devices[0].Allow,
		"CDI devices":         slices.Equal(injected, []string{"v.example/net=a"}),
		"processor":           *r.CPU.Shares == 7 && *r.CPU.Quota == 8 && *r.CPU.Period == 9 && r.CPU.Cpus == "0" && r.CPU.Mems == "1",
		"memory":              *r.Memory.Limit == 1<<20 && *r.Memory.Swap == 1<<20,
		"processes":           *r.Pids.Limit == 11,
		"unified":             r.Unified["memory.high"] == "12",
		"huge pages":          r.HugepageLimits[0].Limit == 13,
		"oom score":           *p.OOMScoreAdj == 14,
		"cgroup":              l.CgroupsPath == "/c",
		"sysctl":              l.Sysctl["net.a"] == "1",
		"namespace":           len(l.Namespaces) == 2 && l.Namespaces[1].Path == "/other",
		"seccomp":             l.Seccomp.DefaultAction == specs.ActAllow,
	} {
		if !ok {
			t.Errorf("%s: %+v", what, s)
		}
	}
}

func TestAdjustLeavesOutAndRefuses(t *testing.T) {
	s, a := specification(), &api.ContainerAdjustment{}
	a.SetLinuxMemoryLimit(1 << 20)
	a.AddLinuxHugepageLimit("2MB", 13)
	if err := Adjust(s, a, Limits{}, none); err != nil {
		t.Fatal(err)
	}
	if r := s.Linux.Resources; r.Memory.Swap != nil || r.HugepageLimits != nil || *r.Memory.Limit != 1<<20 {
		t.Errorf("limits %+v", r)
	}
	for field, ask := range map[string]func(*api.ContainerAdjustment){
		"unified[memory.high]": func(a *api.ContainerAdjustment) { a.AddLinuxUnified("memory.high", "1") },
		"blockioClass":         func(a *api.ContainerAdjustment) { a.SetLinuxBlockIOClass("x") },
		"memory.reservation":   func(a *api.ContainerAdjustment) { a.SetLinuxMemoryReservation(1) },
		"no CDI":               func(a *api.ContainerAdjustment) { a.AddCDIDevice(&api.CDIDevice{Name: "x"}) },
		"linux.namespaces": func(a *api.ContainerAdjustment) {
			a.AddOrReplaceNamespace(&api.LinuxNamespace{Type: "odd", Path: "/x"})
		},
	} {
		a := &api.ContainerAdjustment{}
		ask(a)
		if err := Adjust(specification(), a, Limits{}, none); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
}

func ptr(i int) *int { return &i }

func TestOverlay(t *testing.T) {
	kept := &runtime.Resources{CPUShares: 2, CPUQuota: 3, MemoryLimit: 100, MemorySwapLimit: 100, Unified: map[string]string{"a.b": "1"}}
	all := Limits{CgroupV2: true, Swap: true, Hugetlb: true}
	u := &api.ContainerUpdate{}
	u.SetLinuxCPUShares(20)
	u.SetLinuxMemoryLimit(200)
	u.AddLinuxUnified("c.d", "2")
	got, err := all.Overlay(kept, u.GetLinux().GetResources())
	if err != nil || got.CPUShares != 20 || got.CPUQuota != 3 || got.MemoryLimit != 200 || got.MemorySwapLimit != 200 || len(got.Unified) != 2 {
		t.Errorf("%+v %v", got, err)
	}
	if len(kept.Unified) != 1 || kept.CPUShares != 2 {
		t.Error("what was there before changed")
	}
	if got, err := all.Overlay(nil, nil); err != nil || got == nil {
		t.Errorf("%v %v", got, err)
	}
	if _, err := (Limits{}).Overlay(kept, u.GetLinux().GetResources()); !errdefs.IsInvalidArgument(err) {
		t.Errorf("cgroup v1: %v", err)
	}
	u = &api.ContainerUpdate{}
	u.SetLinuxRDTClass("x")
	if _, err := all.Overlay(kept, u.GetLinux().GetResources()); !errdefs.IsNotImplemented(err) || !strings.Contains(err.Error(), "rdtClass") {
		t.Errorf("RDT class: %v", err)
	}
}

// TestSwapOfNewLimit: a memory limit without one of swap excludes swap, in what is made, in
// what is recorded of it and in updates.
func TestSwapOfNewLimit(t *testing.T) {
	all := Limits{CgroupV2: true, Swap: true, Hugetlb: true}
	for _, kept := range []*runtime.Resources{nil, {MemoryLimit: 1000, MemorySwapLimit: 1000}, {MemoryLimit: 1000, MemorySwapLimit: 2000}, {MemoryLimit: 1000, MemorySwapLimit: -1}} {
		for _, tt := range []struct{ limit, swap, want int64 }{{500, 0, 500}, {1500, 0, 1500}, {500, 700, 700}, {500, -1, -1}, {-1, 0, -1}} {
			a := &api.ContainerAdjustment{}
			a.SetLinuxMemoryLimit(tt.limit)
			if tt.swap != 0 {
				a.SetLinuxMemorySwap(tt.swap)
			}
			s := specification()
			s.Linux.Resources = spec.Resources(kept, true)
			if err := Adjust(s, a, all, none); err != nil {
				t.Fatal(err)
			}
			recorded, err := all.Record(kept, a.GetLinux().GetResources())
			if err != nil {
				t.Fatal(err)
			}
			updated, err := all.Overlay(kept, a.GetLinux().GetResources())
			if err != nil {
				t.Fatal(err)
			}
			if made := *s.Linux.Resources.Memory.Swap; made != tt.want || recorded.MemorySwapLimit != tt.want || updated.MemorySwapLimit != tt.want {
				t.Errorf("%+v with %+v: swap is %d as made, %d as recorded, %d as updated", kept, tt, made, recorded.MemorySwapLimit, updated.MemorySwapLimit)
			}
		}
	}
	u := &api.ContainerUpdate{}
	u.SetLinuxMemoryLimit(500)
	if got, err := (Limits{CgroupV2: true}).Overlay(nil, u.GetLinux().GetResources()); err != nil || got.MemorySwapLimit != 0 {
		t.Errorf("nothing accounts for swap, and its limit is %d, %v", got.MemorySwapLimit, err)
	}
	u = &api.ContainerUpdate{}
	u.SetLinuxCPUShares(20)
	if got, err := all.Overlay(&runtime.Resources{MemoryLimit: 1000, MemorySwapLimit: 2000}, u.GetLinux().GetResources()); err != nil || got.MemorySwapLimit != 2000 {
		t.Errorf("an update of processors makes the swap limit %d, %v", got.MemorySwapLimit, err)
	}
}
