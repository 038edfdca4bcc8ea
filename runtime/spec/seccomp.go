package spec

import (
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// DefaultSeccomp is the profile RuntimeDefault for a container with the given bounding
// capabilities (CAP_X): what a capability is needed for anyway is not filtered where it
// is granted. It is Docker's, as maintained in github.com/moby/profiles, for the
// architecture and the kernel that this program runs on.
func DefaultSeccomp(bounding []string) (*specs.LinuxSeccomp, error) {
	profile, err := seccomp.GetDefaultProfile(&specs.Spec{
		Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: bounding}},
	})
	if err != nil {
		return nil, fmt.Errorf("make default seccomp profile: %w: %w", errdefs.ErrInternal, err)
	}
	return profile, nil
}
