package nri

import (
	"fmt"
	"maps"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/runtime-tools/generate"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Limits says which limits can be set where a container runs.
type Limits struct {
	// CgroupV2, Swap and Hugetlb as in the conversion of the API's requests: without swap
	// accounting swap limits are left out, without the controller those of huge pages.
	CgroupV2, Swap, Hugetlb bool
}

// Adjust does to a specification what plugins asked for. inject adds CDI devices. What
// cannot be done is refused by name (errdefs.ErrInvalidArgument, ErrNotImplemented).
func Adjust(s *specs.Spec, a *api.ContainerAdjustment, l Limits, inject func(*specs.Spec, []string) error) error {
	if a == nil {
		return nil
	}
	g := generate.SpecGenerator(editor{s},
		generate.WithResourceChecker(func(r *specs.LinuxResources) error { return l.check(r) }),
		generate.WithCDIDeviceInjector(inject),
		generate.WithBlockIOResolver(func(class string) (*specs.LinuxBlockIO, error) {
			return nil, fmt.Errorf("linux.resources.blockioClass: %q: there are no block I/O classes: %w", class, errdefs.ErrNotImplemented)
		}),
		generate.WithRdtResolver(func(class string) (*specs.LinuxIntelRdt, error) {
			return &specs.LinuxIntelRdt{ClosID: class}, nil
		}))
	memory := a.GetLinux().GetResources().GetMemory()
	if field := memoryField(memory); field != "" {
		return fmt.Errorf("adjust as NRI plugins ask: linux.resources.memory.%s: only limit and swap can be set: %w", field, errdefs.ErrNotImplemented)
	}
	if err := g.Adjust(a); err != nil {
		return fmt.Errorf("adjust as NRI plugins ask: %w", err)
	}
	// The generator passes over it.
	if swap := memory.GetSwap().GetValue(); swap != 0 && l.Swap {
		editor{s}.SetLinuxResourcesMemorySwap(swap)
	}
	s.Process.Rlimits = lastOfEach(s.Process.Rlimits)
	return nil
}

// check leaves out what cannot be set, as for every container, and refuses what must not
// be left out.
func (l Limits) check(r *specs.LinuxResources) error {
	if r == nil {
		return nil
	}
	if !l.Swap && r.Memory != nil {
		r.Memory.Swap = nil
	}
	if !l.Hugetlb {
		r.HugepageLimits = nil
	}
	if names := slices.Sorted(maps.Keys(r.Unified)); !l.CgroupV2 && len(names) > 0 {
		return fmt.Errorf("linux.resources.unified[%s]: the host has cgroup v1: %w", names[0], errdefs.ErrInvalidArgument)
	}
	return nil
}

// lastOfEach drops limits that later ones replace: OCI runtimes want one of a type.
func lastOfEach(limits []specs.POSIXRlimit) []specs.POSIXRlimit {
	var out []specs.POSIXRlimit
	for i, l := range limits {
		later := slices.ContainsFunc(limits[i+1:], func(n specs.POSIXRlimit) bool { return n.Type == l.Type })
		if !later {
			out = append(out, l)
		}
	}
	return out
}
