package cri

import (
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/spec"
)

// setCapabilities starts from the default set. ALL is looked at before single
// capabilities, so that "add ALL, drop CHOWN" is what it says; a dropped capability is
// in no set, whoever else adds it.
//
// Nothing is inheritable unless it is ambient: inheritable capabilities would revive
// file capabilities of users that the container switched away from.
func setCapabilities(out *runtime.Config, r containerRequest) error {
	const field = securityField + ".capabilities"
	c := r.Config.GetLinux().GetSecurityContext().GetCapabilities()
	add, addAll, err := capabilityList(field+".add_capabilities", c.GetAddCapabilities())
	if err != nil {
		return err
	}
	drop, dropAll, err := capabilityList(field+".drop_capabilities", c.GetDropCapabilities())
	if err != nil {
		return err
	}
	ambient, ambientAll, err := capabilityList(field+".add_ambient_capabilities", c.GetAddAmbientCapabilities())
	if err != nil {
		return err
	}
	base := spec.DefaultCapabilities()
	if addAll || r.Config.GetLinux().GetSecurityContext().GetPrivileged() {
		base = slices.Clone(r.Host.Capabilities)
	}
	if dropAll {
		base = nil
	}
	if ambientAll {
		ambient = slices.Clone(r.Host.Capabilities)
	}
	dropped := func(name string) bool { return slices.Contains(drop, name) }
	ambient = slices.DeleteFunc(ambient, dropped)
	all := slices.DeleteFunc(union(base, add, ambient), dropped)
	out.Capabilities = &specs.LinuxCapabilities{
		Bounding:    all,
		Effective:   slices.Clone(all),
		Permitted:   slices.Clone(all),
		Inheritable: ambient,
		Ambient:     slices.Clone(ambient),
	}
	return nil
}

// capabilityList takes names in any case, with or without the prefix CAP_.
func capabilityList(field string, names []string) (list []string, all bool, err error) {
	known := spec.AllCapabilities()
	for i, name := range names {
		full := strings.ToUpper(name)
		if full == "ALL" {
			all = true
			continue
		}
		full = "CAP_" + strings.TrimPrefix(full, "CAP_")
		if !slices.Contains(known, full) {
			return nil, false, badField(at(field, i), "%q is no capability", name)
		}
		list = append(list, full)
	}
	return list, all, nil
}

func union(lists ...[]string) []string {
	var out []string
	for _, name := range slices.Concat(lists...) {
		if !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	return out
}
