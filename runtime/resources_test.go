package runtime

import (
	"reflect"
	"testing"
)

func TestResourcesWith(t *testing.T) {
	kept := &Resources{
		CPUShares: 1, CPUQuota: 2, CPUPeriod: 3, CpusetCpus: "0", CpusetMems: "0", MemoryLimit: 4, MemorySwapLimit: 5, PidsLimit: 6,
		HugepageLimits: map[string]uint64{"2MB": 1}, OOMScoreAdj: new(int), Unified: map[string]string{"a.b": "1"},
	}
	update := &Resources{
		CPUShares: 10, CPUQuota: -1, CPUPeriod: 30, CpusetCpus: "1", CpusetMems: "1", MemoryLimit: 40, MemorySwapLimit: 50, PidsLimit: 60,
		HugepageLimits: map[string]uint64{"1GB": 2}, OOMScoreAdj: new(int), Unified: map[string]string{"a.b": "2"},
	}
	want := *update
	want.HugepageLimits, want.OOMScoreAdj = map[string]uint64{"2MB": 1, "1GB": 2}, kept.OOMScoreAdj
	if got := kept.With(update); !reflect.DeepEqual(*got, want) || got.OOMScoreAdj != kept.OOMScoreAdj {
		t.Errorf("all of it: %+v", got)
	}
	if len(kept.HugepageLimits) != 1 || kept.Unified["a.b"] != "1" || kept.CPUShares != 1 {
		t.Errorf("what was there before changed: %+v", kept)
	}
	if got := kept.With(&Resources{}); !reflect.DeepEqual(got, kept) {
		t.Errorf("nothing of it: %+v", got)
	}
	if kept.With(nil) != kept || (*Resources)(nil).With(update) != update || (*Resources)(nil).With(nil) != nil {
		t.Error("nil is not nothing")
	}
}
