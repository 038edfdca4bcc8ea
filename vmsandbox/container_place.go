package vmsandbox

import (
	"context"
	"fmt"
	"path"
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/vmsandbox/agent"
)

// namespace is the path in the guest of one that the pod has beside the guest's own, empty
// if it has none of that type.
func (p *pod) namespace(t specs.LinuxNamespaceType) string {
	s := p.snapshot()
	if s.Holder == 0 || s.Config.UserNS == nil && t != specs.PIDNamespace {
		return ""
	}
	if t == specs.PIDNamespace && s.Config.PID != runtime.NamespacePod {
		return ""
	}
	return processNamespace(s.Holder, t)
}

func processNamespace(pid int, t specs.LinuxNamespaceType) string {
	return "/proc/" + strconv.Itoa(pid) + "/ns/" + string(t)
}

// findPlace describes the guest to the builder of the specification. The namespaces that
// are not named are those of the guest itself: it belongs to the pod alone.
func (c *creation) findPlace(ctx context.Context) error {
	s, p := c.pod.snapshot(), &c.place
	p.Rootfs = rootfsDir
	p.Mounts = podMounts()
	p.CgroupsPath = path.Join(agent.PodCgroup, c.id)
	p.CgroupV2 = true
	p.CgroupMountOptions = []string{"nsdelegate"}
	p.HostCapabilities = s.Guest.Capabilities
	p.Rlimits = c.pod.driver.opts.Rlimits
	if c.config.Privileged {
		p.HostDevices = s.Guest.Devices
	}
	if s.Config.UserNS != nil {
		p.UIDMappings, p.GIDMappings = s.Config.UserNS.UIDs, s.Config.UserNS.GIDs
		// The guest's network does not belong to the pod's user namespace.
		p.HostNetwork = true
	}
	for _, t := range []specs.LinuxNamespaceType{specs.UserNamespace, specs.IPCNamespace, specs.UTSNamespace} {
		c.join(t, c.pod.namespace(t))
	}
	switch c.config.PID {
	case runtime.NamespacePod:
		c.join(specs.PIDNamespace, c.pod.namespace(specs.PIDNamespace))
	case runtime.NamespaceTarget:
		target, err := c.pod.targetPID(ctx, c.config.PIDTarget)
		if err != nil {
			return err
		}
		c.join(specs.PIDNamespace, target)
	}
	return nil
}

func (c *creation) join(t specs.LinuxNamespaceType, path string) {
	if path != "" {
		c.place.Namespaces = append(c.place.Namespaces, specs.LinuxNamespace{Type: t, Path: path})
	}
}

// targetPID is the PID namespace of a running container of the same sandbox.
func (p *pod) targetPID(ctx context.Context, id string) (string, error) {
	target, err := p.find(id)
	if err != nil {
		return "", fmt.Errorf("find target container: %w", err)
	}
	state, err := p.machine.Monitor.State(ctx, target.name())
	if err != nil {
		return "", fmt.Errorf("find target container: %w", err)
	}
	if state.Phase != runtime.Running || state.Pid <= 0 {
		return "", fmt.Errorf("target container %s is not running: %w", id, errdefs.ErrFailedPrecondition)
	}
	return processNamespace(state.Pid, specs.PIDNamespace), nil
}
