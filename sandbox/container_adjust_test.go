package sandbox

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestCheckAdjusted(t *testing.T) {
	for field, change := range map[string]func(*specs.Spec){
		"linux.cgroupsPath":  func(s *specs.Spec) { s.Linux.CgroupsPath = "/theirs" },
		"linux.netDevices":   func(s *specs.Spec) { s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"eth7": {}} },
		"linux.memoryPolicy": func(s *specs.Spec) { s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{} },
		"process.ioPriority": func(s *specs.Spec) { s.Process.IOPriority = &specs.LinuxIOPriority{} },
		"process.scheduler":  func(s *specs.Spec) { s.Process.Scheduler = &specs.Scheduler{} },
		"linux.intelRdt.schemata": func(s *specs.Spec) {
			s.Linux.IntelRdt = &specs.LinuxIntelRdt{Schemata: []string{"L3:0=f"}}
		},
		"linux.intelRdt.enableMonitoring": func(s *specs.Spec) { s.Linux.IntelRdt = &specs.LinuxIntelRdt{EnableMonitoring: true} },
	} {
		s := &specs.Spec{Process: &specs.Process{}, Linux: &specs.Linux{CgroupsPath: "/ours"}}
		if err := checkAdjusted(s, "/ours"); err != nil {
			t.Fatal(err)
		}
		change(s)
		if err := checkAdjusted(s, "/ours"); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), field+":") {
			t.Errorf("%s: %v", field, err)
		}
	}
}
