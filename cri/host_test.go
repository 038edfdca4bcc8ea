package cri

import (
	"testing"

	"github.com/cricket-cri/cricket/runtime/spec"
	"github.com/cricket-cri/cricket/sandbox"
)

type featuresDriver struct {
	sandbox.Driver
	features sandbox.Features
}

func (d featuresDriver) Features() sandbox.Features { return d.features }

// What the host's kernel confines and limits does not hold in a machine.
func TestHostOf(t *testing.T) {
	host := hostFacts{
		Swap: true, Hugetlb: true, AppArmor: true, AppArmorDefault: "cricket-default", SELinux: true, Capabilities: []string{"CAP_CHOWN"},
	}
	s := &Server{host: host}
	shared := s.hostOf(featuresDriver{features: sandbox.Features{UserNamespaces: true}})
	if !shared.UserNamespaces || !shared.AppArmor || !shared.SELinux || !shared.Swap || !shared.Hugetlb || shared.CgroupV2 || len(shared.Capabilities) != 1 {
		t.Errorf("on the host's kernel: %+v", shared)
	}
	own := s.hostOf(featuresDriver{features: sandbox.Features{OwnKernel: true}})
	if own.AppArmor || own.AppArmorDefault != "" || own.SELinux || own.Swap || own.Hugetlb || !own.CgroupV2 || !own.Seccomp || !own.OwnKernel ||
		len(own.Capabilities) != len(spec.AllCapabilities()) {
		t.Errorf("in a machine: %+v", own)
	}
}
