package cri

import (
	"context"
	"fmt"

	"github.com/containerd/nri/pkg/api"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/cri/nri"
	"github.com/cricket-cri/cricket/cri/store"
	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/flow"
)

// view is the server as NRI plugins use it (nri.Runtime).
type view struct{ s *Server }

// Snapshot lists the pods there are, and the containers that have not ended.
func (v view) Snapshot() ([]*api.PodSandbox, []*api.Container) {
	var pods []*api.PodSandbox
	for _, r := range v.s.store.Sandboxes.List() {
		if !r.Pending() && r.Broken == "" {
			pods = append(pods, v.s.podShown(r))
		}
	}
	var containers []*api.Container
	for _, r := range v.s.store.Containers.List() {
		switch r.State() {
		case v1.ContainerState_CONTAINER_CREATED, v1.ContainerState_CONTAINER_RUNNING:
			if !r.Pending() {
				containers = append(containers, nri.Container(r))
			}
		}
	}
	return pods, containers
}

// Update changes limits of a container because a plugin wants to.
func (v view) Update(ctx context.Context, id string, limits *api.LinuxResources) error {
	rec, err := v.s.store.Containers.Get(id)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, quickBudget)
	defer cancel()
	return v.s.setLimits(ctx, id, func(kept *runtime.Resources) (*runtime.Resources, error) {
		return v.s.limitsOf(rec).Overlay(kept, limits)
	})
}

// Evict kills a container. It takes no lock: whoever asked may be asked about a container
// itself, and a start that is under way is seen by its own caller. Nor does it wait until
// plugins know of the end: a creation that evicts holds off those that connect.
func (v view) Evict(ctx context.Context, id, reason string) error {
	rec, err := v.s.store.Containers.Get(id)
	if err != nil || rec.State() != v1.ContainerState_CONTAINER_RUNNING {
		return err
	}
	v.s.log.Info("NRI plugin evicts container", "container", id, "reason", reason)
	ctx, cancel := context.WithTimeout(ctx, killBudget)
	defer cancel()
	if err := v.s.endContainer(ctx, rec, 0); err != nil {
		return fmt.Errorf("evict: %w", err)
	}
	return nil
}

// podShown is a pod as plugins see it.
func (s *Server) podShown(r *store.Sandbox) *api.PodSandbox {
	netns := ""
	if sb := s.live.sandbox(r.ID); sb != nil {
		netns = sb.Status().NetNS
	}
	return nri.Pod(r, netns)
}

// podOf is the pod of a container; if nothing is known of it any more, its id.
func (s *Server) podOf(c *store.Container) *api.PodSandbox {
	r, err := s.store.Sandboxes.Get(c.SandboxID)
	if err != nil {
		return &api.PodSandbox{Id: c.SandboxID}
	}
	return s.podShown(r)
}

// limitsFor says which limits containers of a pod can have.
func (s *Server) limitsFor(pod *store.Sandbox) nri.Limits {
	h := s.hostFor(pod.Handler)
	return nri.Limits{CgroupV2: h.CgroupV2, Swap: h.Swap, Hugetlb: h.Hugetlb}
}

func (s *Server) limitsOf(c *store.Container) nri.Limits {
	pod, err := s.store.Sandboxes.Get(c.SandboxID)
	if err != nil {
		pod = &store.Sandbox{}
	}
	return s.limitsFor(pod)
}

// tell tells plugins of what is in the records already. A plugin that is just told what there
// is gets to know it before or afterwards, and so misses nothing. Whoever holds plugins off
// (nri.Plugins.Hold) must neither call this nor wait for who does: a plugin that connects
// waits for the one, and the other for the plugin.
func (s *Server) tell(notice func(*nri.Plugins)) {
	if s.plugins == nil {
		return
	}
	defer s.plugins.Hold()()
	notice(s.plugins)
}

// hold keeps plugins that connect from being told what there is (nri.Plugins.Hold), from the
// moment on in which those that are there are asked about something new until that is
// recorded, and no longer: while one waits to connect everybody else waits who has something
// to tell, whatever time they have.
type hold struct {
	plugins *nri.Plugins
	free    func()
}

func (h *hold) take() {
	if h.free == nil {
		h.free = h.plugins.Hold()
	}
}

func (h *hold) release() {
	if h.free != nil {
		h.free()
		h.free = nil
	}
}

// step is the one after which plugins are asked; what is undone before it need not hold.
func (h *hold) step() flow.Step {
	return flow.Step{
		Name: "hold plugins off",
		Do:   func(context.Context) error { h.take(); return nil },
		Undo: func(context.Context) error { h.release(); return nil },
	}
}

// tellStopped tells plugins that a container has ended.
func (s *Server) tellStopped(ctx context.Context, r *store.Container) {
	if r == nil || r.Broken != "" {
		return
	}
	s.tell(func(p *nri.Plugins) { p.Stopped(ctx, s.podOf(r), nri.Container(r)) })
}

// tellRemoved tells plugins that nothing of a container is left; one that never ran ends
// with that.
func (s *Server) tellRemoved(ctx context.Context, r *store.Container) {
	if r.Pending() || r.Broken != "" {
		return
	}
	s.tell(func(p *nri.Plugins) {
		if r.State() != v1.ContainerState_CONTAINER_EXITED {
			p.Stopped(ctx, s.podOf(r), nri.Container(r))
		}
		p.Removed(ctx, s.podOf(r), nri.Container(r))
	})
}

// StartPlugins lets NRI plugins come. It must be called after Recover and before the
// server serves.
func (s *Server) StartPlugins() error { return s.plugins.Start() }
