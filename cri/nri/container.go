package nri

import (
	"maps"
	"slices"

	"github.com/containerd/nri/pkg/api"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/cri/store"
	"github.com/cricket-cri/cricket/runtime"
)

// Pod is a pod as plugins see it. netns is the path of its network namespace, empty where
// it has none (any more).
func Pod(r *store.Sandbox, netns string) *api.PodSandbox {
	m, linux := r.Config.GetMetadata(), r.Config.GetLinux()
	pod := &api.PodSandbox{
		Id: r.ID, Name: m.GetName(), Uid: m.GetUid(), Namespace: m.GetNamespace(),
		Labels: maps.Clone(r.Config.GetLabels()), Annotations: maps.Clone(r.Config.GetAnnotations()),
		RuntimeHandler: r.Requested, Ips: slices.Clone(r.IPs),
		Linux: &api.LinuxPodSandbox{
			PodOverhead: limitsNow(r.Overhead, linux.GetOverhead()), PodResources: limitsNow(r.Resources, linux.GetResources()),
			CgroupParent: linux.GetCgroupParent(),
		},
	}
	if netns != "" {
		pod.Linux.Namespaces = []*api.LinuxNamespace{{Type: "network", Path: netns}}
	}
	return pod
}

// limitsNow are the limits of a pod, or those that were requested where nothing else is known.
func limitsNow(now *runtime.Resources, requested *v1.LinuxContainerResources) *api.LinuxResources {
	if now != nil {
		return FromLimits(now)
	}
	return Requested(requested)
}

// FromSpec is what a specification says of a container.
func FromSpec(s *specs.Spec) *api.Container {
	c := &api.Container{
		Annotations: maps.Clone(s.Annotations), Mounts: api.FromOCIMounts(s.Mounts), Hooks: api.FromOCIHooks(s.Hooks),
		Linux: &api.LinuxContainer{},
	}
	if p := s.Process; p != nil {
		c.Args, c.Env = slices.Clone(p.Args), slices.Clone(p.Env)
		c.User = &api.User{Uid: p.User.UID, Gid: p.User.GID, AdditionalGids: slices.Clone(p.User.AdditionalGids)}
		for _, l := range p.Rlimits {
			c.Rlimits = append(c.Rlimits, &api.POSIXRlimit{Type: l.Type, Hard: l.Hard, Soft: l.Soft})
		}
		c.Linux.OomScoreAdj = api.Int(p.OOMScoreAdj)
	}
	if l := s.Linux; l != nil {
		c.Linux.Namespaces = api.FromOCILinuxNamespaces(l.Namespaces)
		c.Linux.Devices = api.FromOCILinuxDevices(l.Devices)
		c.Linux.Resources = api.FromOCILinuxResources(l.Resources, s.Annotations)
		c.Linux.CgroupsPath = l.CgroupsPath
		c.Linux.NetDevices = api.FromOCILinuxNetDevices(l.NetDevices)
		c.Linux.Sysctl = maps.Clone(l.Sysctl)
		if l.Seccomp != nil {
			c.Linux.SeccompPolicy = api.FromOCILinuxSeccomp(l.Seccomp)
		}
	}
	return c
}

// Keep is what is worth keeping of a container: all but its seccomp policy, which is
// large, and asked for by nobody once the container is made.
func Keep(s *specs.Spec) ([]byte, error) {
	c := FromSpec(s)
	c.Linux.SeccompPolicy = nil
	return proto.Marshal(c)
}

// Container is a container as plugins see it: what Keep kept, and what the record says.
// One that was made while NRI was switched off shows what was requested.
func Container(r *store.Container) *api.Container {
	c := &api.Container{}
	if len(r.Shown) == 0 || proto.Unmarshal(r.Shown, c) != nil {
		c = &api.Container{Args: slices.Concat(r.Config.GetCommand(), r.Config.GetArgs())}
		for _, e := range r.Config.GetEnvs() {
			c.Env = append(c.Env, e.GetKey()+"="+string(e.GetValue()))
		}
	}
	if r.Resources != nil && len(r.Shown) > 0 {
		apply(linux(c), r.Resources)
	} else if r.Resources != nil {
		linux(c).Resources = FromLimits(r.Resources)
	}
	return Complete(c, r)
}

func linux(c *api.Container) *api.LinuxContainer {
	if c.Linux == nil {
		c.Linux = &api.LinuxContainer{}
	}
	return c.Linux
}

// Complete adds to a container what its record says.
func Complete(c *api.Container, r *store.Container) *api.Container {
	c.Id, c.PodSandboxId, c.Name = r.ID, r.SandboxID, r.Config.GetMetadata().GetName()
	c.State = stateOf(r)
	c.Labels = maps.Clone(r.Config.GetLabels())
	if c.Annotations == nil {
		c.Annotations = map[string]string{}
	}
	maps.Copy(c.Annotations, r.Config.GetAnnotations())
	c.Pid = uint32(r.Pid)
	c.CreatedAt, c.ExitCode = r.CreatedAt.UnixNano(), r.ExitCode
	if !r.StartedAt.IsZero() {
		c.StartedAt = r.StartedAt.UnixNano()
	}
	if !r.FinishedAt.IsZero() {
		c.FinishedAt = r.FinishedAt.UnixNano()
	}
	c.StatusReason, c.StatusMessage = r.Reason, r.Message
	for _, d := range r.Config.GetCDIDevices() {
		c.CDIDevices = append(c.CDIDevices, &api.CDIDevice{Name: d.GetName()})
	}
	c.Image = &api.Image{Name: r.ImageName, Digest: r.ImageRef, ConfigDigest: r.ImageID}
	if p := r.Config.GetLinux().GetSecurityContext().GetSeccomp(); p != nil {
		linux(c).SeccompProfile = &api.SecurityProfile{
			ProfileType: api.SecurityProfile_ProfileType(p.GetProfileType()), LocalhostRef: p.GetLocalhostRef(),
		}
	}
	return c
}

func stateOf(r *store.Container) api.ContainerState {
	switch r.State() {
	case v1.ContainerState_CONTAINER_CREATED:
		return api.ContainerState_CONTAINER_CREATED
	case v1.ContainerState_CONTAINER_RUNNING:
		return api.ContainerState_CONTAINER_RUNNING
	case v1.ContainerState_CONTAINER_EXITED:
		return api.ContainerState_CONTAINER_STOPPED
	}
	return api.ContainerState_CONTAINER_UNKNOWN
}
