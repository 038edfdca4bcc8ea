package nri

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/containerd/nri/pkg/api"
)

// refused is the error of a request that a plugin, or a plugin's validator, does not want.
func refused(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("ask NRI plugins: %w: %w", errdefs.ErrFailedPrecondition, err)
}

// RunPod tells that a pod is there, before anybody else knows. An error is a plugin's that
// does not want it: those that were told before learn that it is gone.
func (p *Plugins) RunPod(ctx context.Context, pod *api.PodSandbox) error {
	if p == nil {
		return nil
	}
	err := p.adaptation.RunPodSandbox(ctx, &api.RunPodSandboxRequest{Pod: pod})
	if err != nil {
		p.StopPod(ctx, pod)
		p.RemovePod(ctx, pod)
	}
	return refused(err)
}

// UpdatePod asks whether a pod's limits may be changed.
func (p *Plugins) UpdatePod(ctx context.Context, pod *api.PodSandbox, overhead, limits *api.LinuxResources) error {
	if p == nil {
		return nil
	}
	_, err := p.adaptation.UpdatePodSandbox(ctx, &api.UpdatePodSandboxRequest{
		Pod: pod, OverheadLinuxResources: overhead, LinuxResources: limits,
	})
	return refused(err)
}

// UpdatedPod tells that a pod's limits were changed.
func (p *Plugins) UpdatedPod(ctx context.Context, pod *api.PodSandbox) {
	if p != nil {
		p.told("update of pod", pod.GetId(), p.adaptation.PostUpdatePodSandbox(ctx, &api.PostUpdatePodSandboxRequest{Pod: pod}))
	}
}

// StopPod tells that a pod's containers have ended and its network is about to.
func (p *Plugins) StopPod(ctx context.Context, pod *api.PodSandbox) {
	if p != nil {
		p.told("stop of pod", pod.GetId(), p.adaptation.StopPodSandbox(ctx, &api.StopPodSandboxRequest{Pod: pod}))
	}
}

// RemovePod tells that nothing of a pod is left.
func (p *Plugins) RemovePod(ctx context.Context, pod *api.PodSandbox) {
	if p != nil {
		p.told("removal of pod", pod.GetId(), p.adaptation.RemovePodSandbox(ctx, &api.RemovePodSandboxRequest{Pod: pod}))
	}
}

// Create asks what is to be different in a container that is about to be made. What
// plugins want of other containers is done before it returns; what of it fails is logged.
// The answer may be nil.
func (p *Plugins) Create(ctx context.Context, pod *api.PodSandbox, c *api.Container) (*api.ContainerAdjustment, error) {
	if p == nil {
		return nil, nil
	}
	answer, err := p.adaptation.CreateContainer(ctx, &api.CreateContainerRequest{Pod: pod, Container: c})
	if err != nil {
		return nil, refused(err)
	}
	p.evict(ctx, answer.GetEvict())
	p.change(ctx, answer.GetUpdate())
	return answer.GetAdjust(), nil
}

// Created tells that a container was made.
func (p *Plugins) Created(ctx context.Context, pod *api.PodSandbox, c *api.Container) {
	if p != nil {
		p.told("creation of container", c.GetId(), p.adaptation.PostCreateContainer(ctx, &api.PostCreateContainerRequest{Pod: pod, Container: c}))
	}
}

// StartContainer asks whether a container may be started.
func (p *Plugins) StartContainer(ctx context.Context, pod *api.PodSandbox, c *api.Container) error {
	if p == nil {
		return nil
	}
	return refused(p.adaptation.StartContainer(ctx, &api.StartContainerRequest{Pod: pod, Container: c}))
}

// Started tells that a container runs.
func (p *Plugins) Started(ctx context.Context, pod *api.PodSandbox, c *api.Container) {
	if p != nil {
		p.told("start of container", c.GetId(), p.adaptation.PostStartContainer(ctx, &api.PostStartContainerRequest{Pod: pod, Container: c}))
	}
}

// Update asks what new limits of a container are to be instead; the answer is limits, as
// far as no plugin changed them. What plugins want of other containers is done before.
func (p *Plugins) Update(ctx context.Context, pod *api.PodSandbox, c *api.Container, limits *api.LinuxResources) (*api.LinuxResources, error) {
	if p == nil {
		return limits, nil
	}
	answer, err := p.adaptation.UpdateContainer(ctx, &api.UpdateContainerRequest{Pod: pod, Container: c, LinuxResources: limits})
	if err != nil {
		return nil, refused(err)
	}
	p.evict(ctx, answer.GetEvict())
	var others []*api.ContainerUpdate
	for _, u := range answer.GetUpdate() {
		if u.GetContainerId() == c.GetId() {
			limits = u.GetLinux().GetResources()
		} else {
			others = append(others, u)
		}
	}
	p.change(ctx, others)
	return limits, nil
}

// Updated tells that a container's limits were changed.
func (p *Plugins) Updated(ctx context.Context, pod *api.PodSandbox, c *api.Container) {
	if p != nil {
		p.told("update of container", c.GetId(), p.adaptation.PostUpdateContainer(ctx, &api.PostUpdateContainerRequest{Pod: pod, Container: c}))
	}
}

// Stopped tells that a container has ended.
func (p *Plugins) Stopped(ctx context.Context, pod *api.PodSandbox, c *api.Container) {
	if p == nil {
		return
	}
	answer, err := p.adaptation.StopContainer(ctx, &api.StopContainerRequest{Pod: pod, Container: c})
	p.told("stop of container", c.GetId(), err)
	p.change(ctx, answer.GetUpdate())
}

// Removed tells that nothing of a container is left.
func (p *Plugins) Removed(ctx context.Context, pod *api.PodSandbox, c *api.Container) {
	if p != nil {
		p.told("removal of container", c.GetId(), p.adaptation.RemoveContainer(ctx, &api.RemoveContainerRequest{Pod: pod, Container: c}))
	}
}

// told logs what plugins say to a thing that has happened already.
func (p *Plugins) told(what, id string, err error) {
	if err != nil {
		p.log.Warn("NRI plugin failed", "event", what, "id", id, "error", err)
	}
}
