package cri

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/spec"
)

const localhostPrefix = "localhost/"

// setProfiles needs out.Capabilities, which the default seccomp profile depends on.
func setProfiles(out *runtime.Config, r containerRequest) (err error) {
	sc := r.Config.GetLinux().GetSecurityContext()
	if out.Seccomp, err = seccompProfile(sc, out.Capabilities.Bounding, r.Host); err != nil {
		return err
	}
	if out.ApparmorProfile, err = apparmorProfile(sc, r.Host); err != nil {
		return err
	}
	out.SELinuxLabel, out.MountLabel, err = selinuxLabels(
		securityField+".selinux_options", sc.GetSelinuxOptions(), r.ProcessLabel, r.MountLabel, r.Host)
	if sc.GetPrivileged() && sc.GetSelinuxOptions() == nil {
		out.SELinuxLabel = "" // not confined
	}
	return err
}

// namedProfile parses the text form of the deprecated fields; nil for "".
func namedProfile(field, name string) (*v1.SecurityProfile, error) {
	switch name {
	case "":
		return nil, nil
	case "runtime/default", "docker/default":
		return &v1.SecurityProfile{ProfileType: v1.SecurityProfile_RuntimeDefault}, nil
	case "unconfined":
		return &v1.SecurityProfile{ProfileType: v1.SecurityProfile_Unconfined}, nil
	}
	ref, ok := strings.CutPrefix(name, localhostPrefix)
	if !ok {
		return nil, badField(field, "%q is none of runtime/default, unconfined, localhost/PROFILE", name)
	}
	return &v1.SecurityProfile{ProfileType: v1.SecurityProfile_Localhost, LocalhostRef: ref}, nil
}

// checkProfile wants a reference for Localhost profiles and for no other.
func checkProfile(field string, p *v1.SecurityProfile) error {
	if p == nil {
		return nil
	}
	switch p.GetProfileType() {
	case v1.SecurityProfile_RuntimeDefault, v1.SecurityProfile_Unconfined:
		if p.GetLocalhostRef() != "" {
			return badField(field+".localhost_ref", "is for profile_type Localhost only")
		}
	case v1.SecurityProfile_Localhost:
		if strings.TrimPrefix(p.GetLocalhostRef(), localhostPrefix) == "" {
			return badField(field+".localhost_ref", "is required for profile_type Localhost")
		}
	default:
		return badField(field+".profile_type", "%d is unknown", p.GetProfileType())
	}
	return nil
}

// seccompProfile is nil for unconfined: if it is asked for, if nothing is, and for
// privileged containers.
func seccompProfile(sc *v1.LinuxContainerSecurityContext, bounding []string, h hostFacts) (*specs.LinuxSeccomp, error) {
	field := securityField + ".seccomp"
	p := sc.GetSeccomp()
	if p == nil {
		var err error
		field = securityField + ".seccomp_profile_path"
		//nolint:staticcheck // deprecated, and still sent by old clients
		if p, err = namedProfile(field, sc.GetSeccompProfilePath()); err != nil {
			return nil, err
		}
	}
	if err := checkProfile(field, p); err != nil {
		return nil, err
	}
	switch {
	case p == nil || sc.GetPrivileged() || p.GetProfileType() == v1.SecurityProfile_Unconfined:
		return nil, nil
	case !h.Seccomp:
		return nil, badField(field, "the kernel has no seccomp filters")
	case p.GetProfileType() == v1.SecurityProfile_RuntimeDefault:
		return spec.DefaultSeccomp(bounding)
	}
	name := strings.TrimPrefix(p.GetLocalhostRef(), localhostPrefix)
	if err := checkAbsolute(field+".localhost_ref", name); err != nil {
		return nil, err
	}
	text, err := h.ReadProfile(name)
	if err != nil {
		return nil, badField(field+".localhost_ref", "read seccomp profile: %w", err)
	}
	return parseSeccomp(field+".localhost_ref", name, text)
}

// apparmorProfile is the name of a loaded profile, or "" for none. A container that says
// nothing gets the default where the kernel has AppArmor, unless it is privileged. The
// default of a machine is the machine.
func apparmorProfile(sc *v1.LinuxContainerSecurityContext, h hostFacts) (string, error) {
	field := securityField + ".apparmor"
	p := sc.GetApparmor()
	if p == nil {
		var err error
		field = securityField + ".apparmor_profile"
		//nolint:staticcheck // deprecated, and still sent by old clients
		if p, err = namedProfile(field, sc.GetApparmorProfile()); err != nil {
			return "", err
		}
	}
	if err := checkProfile(field, p); err != nil {
		return "", err
	}
	switch {
	case p.GetProfileType() == v1.SecurityProfile_Unconfined:
		return "", nil
	case !h.AppArmor && p == nil:
		return "", nil
	case h.OwnKernel && p.GetProfileType() == v1.SecurityProfile_RuntimeDefault:
		return "", nil
	case !h.AppArmor:
		return "", badField(field, "AppArmor is not enabled in the kernel that it runs on")
	case p.GetProfileType() == v1.SecurityProfile_RuntimeDefault:
		if sc.GetPrivileged() {
			return "", nil
		}
		if p != nil && h.AppArmorDefault == "" {
			return "", fmt.Errorf("%s: no default AppArmor profile is loaded: %w", field, errdefs.ErrFailedPrecondition)
		}
		return h.AppArmorDefault, nil
	}
	name := strings.TrimPrefix(p.GetLocalhostRef(), localhostPrefix)
	loaded, err := h.AppArmorLoaded(name)
	if err != nil {
		return "", err
	}
	if !loaded {
		return "", badField(field, "AppArmor profile %q is not loaded: %w", name, errdefs.ErrNotFound)
	}
	return name, nil
}

// selinuxLabels makes the labels for options, or hands on the inherited ones if there
// are none.
func selinuxLabels(field string, o *v1.SELinuxOption, process, mount string, h hostFacts) (string, string, error) {
	level := regexp.MustCompile(`^s\d(-s\d)?(:c\d{1,4}(\.c\d{1,4})?(,c\d{1,4}(\.c\d{1,4})?)*)?$`)
	if l := o.GetLevel(); l != "" && !level.MatchString(l) {
		return "", "", badField(field+".level", "%q is no level", l)
	}
	var options []string
	for _, part := range []struct{ name, value string }{
		{"user", o.GetUser()}, {"role", o.GetRole()}, {"type", o.GetType()}, {"level", o.GetLevel()},
	} {
		if part.value != "" {
			options = append(options, part.name+":"+part.value)
		}
	}
	if !h.SELinux {
		return "", "", nil
	}
	if len(options) == 0 && process != "" {
		return process, mount, nil
	}
	process, mount, err := h.SELinuxLabels(options)
	if err != nil {
		return "", "", badField(field, "%w", err)
	}
	return process, mount, nil
}
