package spec

import (
	"reflect"
	"slices"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cricket-cri/cricket/runtime"
)

func TestCapabilities(t *testing.T) {
	p := place()
	p.HostCapabilities = []string{"CAP_CHOWN", "CAP_KILL"}
	c := config()
	c.Capabilities = &specs.LinuxCapabilities{
		Bounding: []string{"CAP_KILL", "CAP_SYS_ADMIN"}, Ambient: []string{"CAP_SYS_ADMIN", "CAP_KILL"},
	}
	got := build(t, c, p).Process.Capabilities
	want := &specs.LinuxCapabilities{Bounding: []string{"CAP_KILL"}, Ambient: []string{"CAP_KILL"}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}

	c.Privileged = true
	got = build(t, c, p).Process.Capabilities
	for _, set := range [][]string{got.Bounding, got.Effective, got.Permitted} {
		if !slices.Equal(set, p.HostCapabilities) {
			t.Errorf("privileged: got %v", set)
		}
	}

	c.Privileged, c.Capabilities = false, nil
	if got := build(t, c, p).Process.Capabilities; len(got.Bounding) > 0 {
		t.Errorf("nothing asked for: got %v", got)
	}
}

func TestOOMScoreAdj(t *testing.T) {
	low, high := -500, 700
	resource := append(AllCapabilities(), "CAP_SYS_RESOURCE")
	for name, tc := range map[string]struct {
		own  int
		want *int
		caps []string
		got  int
	}{
		"higher":                  {0, &high, nil, 700},
		"lower, not allowed":      {-100, &low, nil, -100},
		"lower, allowed":          {-100, &low, resource, -500},
		"nothing asked":           {-999, nil, resource, 0},
		"nothing asked, own is 5": {5, nil, nil, 5},
	} {
		t.Run(name, func(t *testing.T) {
			c, p := config(), place()
			c.Resources, c.OOMScoreAdj = nil, tc.want
			p.OOMScoreAdj, p.HostCapabilities = tc.own, tc.caps
			if got := *build(t, c, p).Process.OOMScoreAdj; got != tc.got {
				t.Errorf("got %d, want %d", got, tc.got)
			}
		})
	}
}

func TestResources(t *testing.T) {
	if got := Resources(nil, true); !reflect.DeepEqual(got, &specs.LinuxResources{}) {
		t.Errorf("nil: got %v", got)
	}
	r := &runtime.Resources{
		CPUShares: 2, CPUQuota: -1, CPUPeriod: 100000, CpusetCpus: "0-1", CpusetMems: "0",
		MemoryLimit: 10, MemorySwapLimit: 20, PidsLimit: 5,
		HugepageLimits: map[string]uint64{"2MB": 4, "1GB": 8},
		Unified:        map[string]string{"memory.high": "9"},
	}
	shares, quota, period := uint64(2), int64(-1), uint64(100000)
	limit, swap, pids := int64(10), int64(20), int64(5)
	want := &specs.LinuxResources{
		CPU:            &specs.LinuxCPU{Shares: &shares, Quota: &quota, Period: &period, Cpus: "0-1", Mems: "0"},
		Memory:         &specs.LinuxMemory{Limit: &limit, Swap: &swap},
		Pids:           &specs.LinuxPids{Limit: &pids},
		HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "1GB", Limit: 8}, {Pagesize: "2MB", Limit: 4}},
		Unified:        map[string]string{"memory.high": "9"},
	}
	if got := Resources(r, true); !reflect.DeepEqual(got, want) {
		t.Errorf("v2: got %+v", got)
	}
	want.Unified = nil
	if got := Resources(r, false); !reflect.DeepEqual(got, want) {
		t.Errorf("v1: got %+v", got)
	}
}

func TestRlimits(t *testing.T) {
	p := place()
	p.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 1024, Hard: 4096}}
	if got := build(t, config(), p).Process.Rlimits; !slices.Equal(got, p.Rlimits) {
		t.Errorf("got %v", got)
	}
}

func TestDefaultSeccomp(t *testing.T) {
	allowed := func(bounding []string) bool {
		profile, err := DefaultSeccomp(bounding)
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(profile.Syscalls, func(s specs.LinuxSyscall) bool {
			return s.Action == specs.ActAllow && slices.Contains(s.Names, "sethostname")
		})
	}
	if allowed(DefaultCapabilities()) {
		t.Error("sethostname is allowed to everyone")
	}
	if !allowed([]string{"CAP_SYS_ADMIN"}) {
		t.Error("sethostname is not allowed to CAP_SYS_ADMIN")
	}
}
