package cri

import (
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/sandbox"
)

const namespaceField = "config.linux.security_context.namespace_options"

// setSandboxNamespaces needs out.Network before the ports are looked at.
func setSandboxNamespaces(out *sandbox.Config, c *v1.PodSandboxConfig, h hostFacts) (err error) {
	o := c.GetLinux().GetSecurityContext().GetNamespaceOptions()
	if out.Network, err = podOrNode(namespaceField+".network", o.GetNetwork()); err != nil {
		return err
	}
	if out.IPC, err = podOrNode(namespaceField+".ipc", o.GetIpc()); err != nil {
		return err
	}
	switch o.GetPid() {
	case v1.NamespaceMode_POD:
		out.PID = runtime.NamespacePod
	case v1.NamespaceMode_CONTAINER:
		out.PID = runtime.NamespaceContainer
	case v1.NamespaceMode_NODE:
		out.PID = runtime.NamespaceNode
	default:
		return badField(namespaceField+".pid", "%s is not a mode of a sandbox", o.GetPid())
	}
	if o.GetTargetId() != "" {
		return badField(namespaceField+".target_id", "a sandbox has no target")
	}
	out.UserNS, err = userNamespace(namespaceField+".userns_options", o.GetUsernsOptions(), h)
	return err
}

func podOrNode(field string, mode v1.NamespaceMode) (runtime.NamespaceMode, error) {
	switch mode {
	case v1.NamespaceMode_POD:
		return runtime.NamespacePod, nil
	case v1.NamespaceMode_NODE:
		return runtime.NamespaceNode, nil
	}
	return "", badField(field, "%s is neither POD nor NODE", mode)
}

// userNamespace is nil for a pod in the host's user namespace.
func userNamespace(field string, u *v1.UserNamespace, h hostFacts) (*sandbox.IDMappings, error) {
	if u == nil {
		return nil, nil
	}
	switch u.GetMode() {
	case v1.NamespaceMode_NODE:
		if len(u.GetUids())+len(u.GetGids()) > 0 {
			return nil, badField(field, "mode NODE excludes mappings")
		}
		return nil, nil
	case v1.NamespaceMode_POD:
	default:
		return nil, badField(field+".mode", "%s is neither POD nor NODE", u.GetMode())
	}
	if !h.UserNamespaces {
		return nil, notYet(field + ".mode")
	}
	uids, err := podMapping(field+".uids", u.GetUids())
	if err != nil {
		return nil, err
	}
	gids, err := podMapping(field+".gids", u.GetGids())
	if err != nil {
		return nil, err
	}
	return &sandbox.IDMappings{UIDs: uids, GIDs: gids}, nil
}

// podMapping wants one range that begins with root.
func podMapping(field string, list []*v1.IDMapping) ([]specs.LinuxIDMapping, error) {
	if len(list) != 1 {
		return nil, badField(field, "one range is required, got %d", len(list))
	}
	if list[0].GetContainerId() != 0 {
		return nil, badField(at(field, 0)+".container_id", "must be 0: root of the pod needs a mapping")
	}
	return idMappings(field, list)
}

// idMappings checks and translates ranges.
func idMappings(field string, list []*v1.IDMapping) ([]specs.LinuxIDMapping, error) {
	var out []specs.LinuxIDMapping
	for i, m := range list {
		if m.GetLength() == 0 {
			return nil, badField(at(field, i)+".length", "must be positive")
		}
		last := uint64(max(m.GetHostId(), m.GetContainerId())) + uint64(m.GetLength()) - 1
		// The last id of 32 bits means "none" in system calls.
		if last >= 1<<32-1 {
			return nil, badField(at(field, i), "the range ends at %d, beyond the last id", last)
		}
		out = append(out, specs.LinuxIDMapping{ContainerID: m.GetContainerId(), HostID: m.GetHostId(), Size: m.GetLength()})
	}
	return out, nil
}

// setNamespaces says which PID namespace the container is in, and checks that it asks
// for no other namespaces than its sandbox has. POD is the zero value, so a client that
// says nothing says POD: it stands for whatever the sandbox has.
func setNamespaces(out *runtime.Config, r containerRequest) error {
	o := r.Config.GetLinux().GetSecurityContext().GetNamespaceOptions()
	pod := r.Sandbox.GetLinux().GetSecurityContext().GetNamespaceOptions()
	if err := sameAsPod(namespaceField+".network", o.GetNetwork(), pod.GetNetwork()); err != nil {
		return err
	}
	if err := sameAsPod(namespaceField+".ipc", o.GetIpc(), pod.GetIpc()); err != nil {
		return err
	}
	if err := checkUserNamespace(o.GetUsernsOptions(), pod.GetUsernsOptions(), r.Host); err != nil {
		return err
	}
	if o.GetTargetId() != "" && o.GetPid() != v1.NamespaceMode_TARGET {
		return badField(namespaceField+".target_id", "pid is %s, not TARGET", o.GetPid())
	}
	return setPID(out, o, pod)
}

func setPID(out *runtime.Config, o, pod *v1.NamespaceOption) error {
	switch o.GetPid() {
	case v1.NamespaceMode_POD:
		out.PID = runtime.NamespacePod
		switch pod.GetPid() {
		case v1.NamespaceMode_NODE:
			out.PID = runtime.NamespaceNode
		case v1.NamespaceMode_CONTAINER:
			out.PID = runtime.NamespaceContainer
		}
	case v1.NamespaceMode_CONTAINER:
		out.PID = runtime.NamespaceContainer
	case v1.NamespaceMode_NODE:
		if pod.GetPid() != v1.NamespaceMode_NODE {
			return badField(namespaceField+".pid", "NODE in a sandbox of mode %s", pod.GetPid())
		}
		out.PID = runtime.NamespaceNode
	case v1.NamespaceMode_TARGET:
		if o.GetTargetId() == "" {
			return badField(namespaceField+".target_id", "is required for pid TARGET")
		}
		out.PID, out.PIDTarget = runtime.NamespaceTarget, o.GetTargetId()
	default:
		return badField(namespaceField+".pid", "%d is unknown", o.GetPid())
	}
	return nil
}

func sameAsPod(field string, mode, pod v1.NamespaceMode) error {
	if _, err := podOrNode(field, mode); err != nil {
		return err
	}
	if mode == v1.NamespaceMode_NODE && pod != v1.NamespaceMode_NODE {
		return badField(field, "NODE in a sandbox of mode %s", pod)
	}
	return nil
}

// checkUserNamespace wants what the sandbox has. NODE and no options are the same.
func checkUserNamespace(own, pod *v1.UserNamespace, h hostFacts) error {
	const field = namespaceField + ".userns_options"
	mine, err := userNamespace(field, own, h)
	if err != nil {
		return err
	}
	theirs, err := userNamespace("sandbox_"+field, pod, h)
	if err != nil {
		return err
	}
	if mine == nil && theirs == nil {
		return nil
	}
	if mine == nil || theirs == nil || !slices.Equal(mine.UIDs, theirs.UIDs) || !slices.Equal(mine.GIDs, theirs.GIDs) {
		return badField(field, "differs from the sandbox's")
	}
	return nil
}
