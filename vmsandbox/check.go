package vmsandbox

import (
	"fmt"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/sandbox"
	"github.com/cricket-cri/cricket/sandbox/netns"
)

// refuse names the field of the API that a virtual machine cannot honour.
func refuse(field, why string) error {
	return fmt.Errorf("%s: %s (docs/limitations.md): %w", field, why, errdefs.ErrInvalidArgument)
}

const namespaceField = "linux.security_context.namespace_options."

// checkPod refuses what cannot be before anything is made.
func (d *Driver) checkPod(c *sandbox.Config) error {
	switch {
	case c.ID == "" || c.ID != cleanName(c.ID):
		return fmt.Errorf("id %q: %w", c.ID, errdefs.ErrInvalidArgument)
	case c.Network == runtime.NamespaceNode:
		return refuse(namespaceField+"network: NODE", "a virtual machine cannot use the host's network (hostNetwork)")
	case c.PID == runtime.NamespaceNode:
		return refuse(namespaceField+"pid: NODE", "a virtual machine cannot see the host's processes (hostPID)")
	case c.IPC == runtime.NamespaceNode:
		return refuse(namespaceField+"ipc: NODE", "a virtual machine cannot use the host's System V IPC (hostIPC)")
	case c.Network != runtime.NamespacePod:
		return fmt.Errorf("network namespace mode %q: %w", c.Network, errdefs.ErrInvalidArgument)
	case c.IPC != runtime.NamespacePod:
		return fmt.Errorf("IPC namespace mode %q: %w", c.IPC, errdefs.ErrInvalidArgument)
	case c.PID != runtime.NamespacePod && c.PID != runtime.NamespaceContainer:
		return fmt.Errorf("PID namespace mode %q: %w", c.PID, errdefs.ErrInvalidArgument)
	case c.UserNS != nil && (len(c.UserNS.UIDs) == 0 || len(c.UserNS.GIDs) == 0):
		return fmt.Errorf("user namespace without mappings: %w", errdefs.ErrInvalidArgument)
	}
	if _, err := d.naming.Path(d.parentOf(c)); err != nil {
		return err
	}
	return netns.CheckSysctls(c.Sysctls, []specs.LinuxNamespaceType{
		specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace,
	})
}

// defaultProfile is the AppArmor profile of containers that do not ask for a certain one.
const defaultProfile = "cricket-default"

// checkContainer refuses what would have to cross from one kernel to the other.
func checkContainer(c *runtime.Config) error {
	if c.ID == "" || c.ID != cleanName(c.ID) {
		return fmt.Errorf("container id %q: %w", c.ID, errdefs.ErrInvalidArgument)
	}
	if c.PID == runtime.NamespaceNode {
		return refuse(namespaceField+"pid: NODE", "a virtual machine cannot see the host's processes")
	}
	if len(c.Devices) > 0 {
		return refuse("devices: "+c.Devices[0].HostPath, "a virtual machine does not have the host's devices")
	}
	if c.ApparmorProfile != "" && c.ApparmorProfile != defaultProfile {
		return refuse("linux.security_context.apparmor: "+c.ApparmorProfile, "the guest's kernel has no AppArmor profiles")
	}
	for _, m := range c.Mounts {
		if m.Propagation == runtime.PropagationBidirectional {
			return refuse("mounts: "+m.Destination+": propagation BIDIRECTIONAL", "mounts made in a virtual machine cannot appear on the host")
		}
	}
	return nil
}

// cleanName is the last element of a path: what a name must equal to be used as one.
func cleanName(id string) string { return filepath.Base(filepath.Clean("/" + id)) }
