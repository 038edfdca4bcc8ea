package runtime

import (
	"cmp"
	"maps"
)

// With is r with an update laid over it; neither is changed. Where one is nil it is the
// other. The OOM score stays, which belongs to a process that runs.
func (r *Resources) With(update *Resources) *Resources {
	if r == nil || update == nil {
		return cmp.Or(r, update)
	}
	out := *r
	out.CPUShares = cmp.Or(update.CPUShares, r.CPUShares)
	out.CPUQuota = cmp.Or(update.CPUQuota, r.CPUQuota)
	out.CPUPeriod = cmp.Or(update.CPUPeriod, r.CPUPeriod)
	out.CpusetCpus = cmp.Or(update.CpusetCpus, r.CpusetCpus)
	out.CpusetMems = cmp.Or(update.CpusetMems, r.CpusetMems)
	out.MemoryLimit = cmp.Or(update.MemoryLimit, r.MemoryLimit)
	out.MemorySwapLimit = cmp.Or(update.MemorySwapLimit, r.MemorySwapLimit)
	out.PidsLimit = cmp.Or(update.PidsLimit, r.PidsLimit)
	out.HugepageLimits = mergeMaps(r.HugepageLimits, update.HugepageLimits)
	out.Unified = mergeMaps(r.Unified, update.Unified)
	return &out
}

func mergeMaps[V any](kept, update map[string]V) map[string]V {
	if len(kept)+len(update) == 0 {
		return nil
	}
	out := map[string]V{}
	maps.Copy(out, kept)
	maps.Copy(out, update)
	return out
}
