package sandbox

import (
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cricket-cri/cricket/runtime/spec"
)

// checkAdjusted refuses what an adjustment (NRI, CDI) must not bring: another cgroup than
// the one that the container is found by, and what OCI runtimes do not know in
// specifications of our version, and so would pass over.
func checkAdjusted(s *specs.Spec, cgroupsPath string) error {
	const newer = "OCI runtimes do not know it in version " + spec.Version
	for _, f := range []struct {
		field string
		there bool
		why   string
	}{
		{"linux.cgroupsPath", s.Linux.CgroupsPath != cgroupsPath, "the container is found by its own cgroup"},
		{"linux.netDevices", len(s.Linux.NetDevices) > 0, newer},
		{"linux.memoryPolicy", s.Linux.MemoryPolicy != nil, newer},
		{"process.ioPriority", s.Process.IOPriority != nil, newer},
		{"process.scheduler", s.Process.Scheduler != nil, newer},
		{"linux.intelRdt.schemata", s.Linux.IntelRdt != nil && len(s.Linux.IntelRdt.Schemata) > 0, newer},
		{"linux.intelRdt.enableMonitoring", s.Linux.IntelRdt != nil && s.Linux.IntelRdt.EnableMonitoring, newer},
	} {
		if f.there {
			return fmt.Errorf("adjust OCI specification: %s: %s (docs/limitations.md): %w", f.field, f.why, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}
