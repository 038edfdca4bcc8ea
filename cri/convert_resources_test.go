package cri

import (
	"reflect"
	"testing"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/runtime"
)

func TestConvertResources(t *testing.T) {
	adj := -997
	got, err := convertResources("r", &v1.LinuxContainerResources{
		CpuPeriod: 100000, CpuQuota: -1, CpuShares: 2, CpusetCpus: "0-1,3", CpusetMems: "0",
		MemoryLimitInBytes: 10, OomScoreAdj: -997,
		HugepageLimits: []*v1.HugepageLimit{{PageSize: "2MB", Limit: 4}},
		Unified:        map[string]string{"memory.high": "9"},
	}, testFacts())
	want := &runtime.Resources{
		CPUPeriod: 100000, CPUQuota: -1, CPUShares: 2, CpusetCpus: "0-1,3", CpusetMems: "0",
		MemoryLimit: 10, MemorySwapLimit: 10, OOMScoreAdj: &adj,
		HugepageLimits: map[string]uint64{"2MB": 4},
		Unified:        map[string]string{"memory.high": "9"},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	if got, err := convertResources("r", nil, testFacts()); got != nil || err != nil {
		t.Errorf("nil: got %v, %v", got, err)
	}
}

func TestResourcesOfALesserHost(t *testing.T) {
	got, err := convertResources("r", &v1.LinuxContainerResources{
		MemoryLimitInBytes: 10, MemorySwapLimitInBytes: 20,
		HugepageLimits: []*v1.HugepageLimit{{PageSize: "2MB"}},
	}, hostFacts{})
	if err != nil || got.MemorySwapLimit != 0 || got.HugepageLimits != nil {
		t.Errorf("got %+v, %v", got, err)
	}
	_, err = convertResources("r", &v1.LinuxContainerResources{HugepageLimits: []*v1.HugepageLimit{{PageSize: "2MB", Limit: 4}}}, hostFacts{})
	wantRefusal(t, err, errdefs.ErrInvalidArgument, "r.hugepage_limits[0].limit")
	_, err = convertResources("r", &v1.LinuxContainerResources{Unified: map[string]string{"memory.high": "9"}}, hostFacts{})
	wantRefusal(t, err, errdefs.ErrInvalidArgument, `r.unified["memory.high"]`)
}

func TestConvertResourcesRefuses(t *testing.T) {
	for field, r := range map[string]*v1.LinuxContainerResources{
		"r.cpu_period":                   {CpuPeriod: -1},
		"r.cpu_shares":                   {CpuShares: -1},
		"r.cpu_quota":                    {CpuQuota: -2},
		"r.memory_limit_in_bytes":        {MemoryLimitInBytes: -2},
		"r.memory_swap_limit_in_bytes":   {MemoryLimitInBytes: 10, MemorySwapLimitInBytes: 9},
		"r.oom_score_adj":                {OomScoreAdj: 1001},
		"r.cpuset_cpus":                  {CpusetCpus: "a"},
		"r.cpuset_mems":                  {CpusetMems: "0\n1"},
		"r.hugepage_limits[0].page_size": {HugepageLimits: []*v1.HugepageLimit{{PageSize: "2M"}}},
		"r.hugepage_limits[1].page_size": {HugepageLimits: []*v1.HugepageLimit{{PageSize: "2MB"}, {PageSize: "2MB"}}},
		`r.unified["../memory.high"]`:    {Unified: map[string]string{"../memory.high": "1"}},
		`r.unified["tasks"]`:             {Unified: map[string]string{"tasks": "1"}},
	} {
		t.Run(field, func(t *testing.T) {
			_, err := convertResources("r", r, testFacts())
			wantRefusal(t, err, errdefs.ErrInvalidArgument, field)
		})
	}
}

func TestMergeResources(t *testing.T) {
	adj := 5
	kept := &runtime.Resources{
		CPUShares: 2, MemoryLimit: 10, MemorySwapLimit: 30, OOMScoreAdj: &adj,
		HugepageLimits: map[string]uint64{"2MB": 4}, Unified: map[string]string{"memory.high": "9"},
	}
	before := *kept
	for name, tc := range map[string]struct {
		update *v1.LinuxContainerResources
		want   func(*runtime.Resources)
	}{
		"nothing":                {&v1.LinuxContainerResources{}, func(*runtime.Resources) {}},
		"CPU":                    {&v1.LinuxContainerResources{CpuShares: 4, CpuQuota: 7, CpusetCpus: "1"}, func(r *runtime.Resources) { r.CPUShares, r.CPUQuota, r.CpusetCpus = 4, 7, "1" }},
		"memory":                 {&v1.LinuxContainerResources{MemoryLimitInBytes: 20}, func(r *runtime.Resources) { r.MemoryLimit, r.MemorySwapLimit = 20, 20 }},
		"swap":                   {&v1.LinuxContainerResources{MemorySwapLimitInBytes: 20}, func(r *runtime.Resources) { r.MemorySwapLimit = 20 }},
		"OOM score, which stays": {&v1.LinuxContainerResources{OomScoreAdj: 9}, func(*runtime.Resources) {}},
		"maps": {&v1.LinuxContainerResources{
			HugepageLimits: []*v1.HugepageLimit{{PageSize: "1GB", Limit: 8}}, Unified: map[string]string{"memory.high": "1"},
		}, func(r *runtime.Resources) {
			r.HugepageLimits, r.Unified = map[string]uint64{"2MB": 4, "1GB": 8}, map[string]string{"memory.high": "1"}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			want := before
			tc.want(&want)
			got, err := mergeResources(kept, tc.update, testFacts())
			if err != nil || !reflect.DeepEqual(*got, want) {
				t.Errorf("got %+v, %v, want %+v", got, err, want)
			}
		})
	}
	if !reflect.DeepEqual(*kept, before) || kept.HugepageLimits["1GB"] != 0 {
		t.Errorf("the kept resources changed to %+v", kept)
	}
	_, err := mergeResources(kept, &v1.LinuxContainerResources{MemorySwapLimitInBytes: 9}, testFacts())
	wantRefusal(t, err, errdefs.ErrInvalidArgument, "linux.memory_swap_limit_in_bytes")
	_, err = mergeResources(kept, nil, testFacts())
	wantRefusal(t, err, errdefs.ErrInvalidArgument, "linux")
	if got, err := mergeResources(nil, &v1.LinuxContainerResources{CpuShares: 3}, testFacts()); err != nil || got.CPUShares != 3 {
		t.Errorf("nothing kept: got %v, %v", got, err)
	}
}

func TestStatusResources(t *testing.T) {
	in := &v1.LinuxContainerResources{
		CpuPeriod: 1, CpuQuota: 2, CpuShares: 3, MemoryLimitInBytes: 4, MemorySwapLimitInBytes: 5, OomScoreAdj: 6,
		CpusetCpus: "0", CpusetMems: "0", Unified: map[string]string{"memory.high": "9"},
		HugepageLimits: []*v1.HugepageLimit{{PageSize: "1GB", Limit: 8}, {PageSize: "2MB", Limit: 4}},
	}
	r, err := convertResources("r", in, testFacts())
	if err != nil {
		t.Fatal(err)
	}
	if got := statusResources(r).GetLinux(); !proto.Equal(got, in) {
		t.Errorf("got %v, want %v", got, in)
	}
	if statusResources(nil) != nil {
		t.Error("something for nothing")
	}
}
