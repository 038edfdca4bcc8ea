package cri

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/nri/pkg/api"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/cri/nri"
	"github.com/cricket-cri/cricket/cri/ops"
	"github.com/cricket-cri/cricket/cri/store"
	"github.com/cricket-cri/cricket/runtime/flow"
	"github.com/cricket-cri/cricket/sandbox"
)

// The budgets of operations: generous, since they only bound what is stuck.
const (
	runBudget    = 4 * time.Minute
	createBudget = 4 * time.Minute
	stopBudget   = 2 * time.Minute
	quickBudget  = time.Minute
)

// RunPodSandbox makes a pod's sandbox, networked and ready.
func (s *Server) RunPodSandbox(ctx context.Context, req *v1.RunPodSandboxRequest) (*v1.RunPodSandboxResponse, error) {
	handler, driver, err := s.driver(req.GetRuntimeHandler())
	if err != nil {
		return nil, err
	}
	digest, err := digestOf(req)
	if err != nil {
		return nil, err
	}
	rec := &store.Sandbox{
		ID: newID(), Boot: s.opts.Boot, Handler: handler, Requested: req.GetRuntimeHandler(),
		Config: req.GetConfig(), CreatedAt: time.Now(),
	}
	cfg, err := convertSandbox(rec.ID, req.GetConfig(), s.hostOf(driver))
	if err != nil {
		return nil, err
	}
	cfg.CreatedAt = rec.CreatedAt
	rec.Resources, rec.Overhead = cfg.Resources, cfg.Overhead
	rec.ProcessLabel, rec.MountLabel = cfg.SELinuxLabel, cfg.MountLabel
	op := ops.Spec{Key: runKey(rec), Digest: digest, Budget: runBudget, Park: true}
	id, err := ops.Do(ctx, s.ops, op, func(ctx context.Context) (string, error) {
		return rec.ID, s.runSandbox(ctx, driver, cfg, rec)
	})
	if err != nil {
		return nil, fmt.Errorf("run pod sandbox: %w", err)
	}
	return &v1.RunPodSandboxResponse{PodSandboxId: id}, nil
}

func runKey(rec *store.Sandbox) ops.Key {
	return ops.Key{Kind: "run pod sandbox", Name: store.SandboxName(rec.Config.GetMetadata())}
}

// driver finds the driver of a runtime handler; no name means the default.
func (s *Server) driver(handler string) (string, sandbox.Driver, error) {
	if handler == "" {
		handler = s.opts.DefaultHandler
	}
	d := s.opts.Drivers[handler]
	if d == nil {
		known := slices.Sorted(maps.Keys(s.opts.Drivers))
		return "", nil, fmt.Errorf("runtime_handler: %q is not configured (known: %s): %w", handler, strings.Join(known, ", "), errdefs.ErrInvalidArgument)
	}
	return handler, d, nil
}

func (s *Server) runSandbox(ctx context.Context, driver sandbox.Driver, cfg sandbox.Config, rec *store.Sandbox) error {
	unlock, err := s.locks.Exclusive(ctx, rec.ID)
	if err != nil {
		return err
	}
	defer unlock()
	plugins := hold{plugins: s.plugins}
	defer plugins.release()
	var sb sandbox.Sandbox
	err = flow.Run(ctx, "run pod sandbox",
		flow.Step{
			Name: "record intent",
			Do:   func(context.Context) error { return s.store.Sandboxes.Add(rec) },
			Undo: func(context.Context) error { return s.store.Sandboxes.Delete(rec.ID) },
		},
		flow.Step{
			Name: "create sandbox",
			Do:   func(ctx context.Context) (err error) { sb, err = driver.Create(ctx, cfg); return err },
			Undo: func(ctx context.Context) error { return discard(ctx, sb) },
		},
		plugins.step(),
		s.askPlugins(rec, &sb),
		flow.Step{
			Name: "record sandbox",
			Do: func(context.Context) error {
				rec, err = s.store.Sandboxes.Update(rec.ID, func(r *store.Sandbox) { noteReady(r, sb) })
				return err
			},
		})
	if err != nil {
		s.work.hurry() // what could not be undone has no record any more
		return err
	}
	s.live.setSandbox(rec.ID, sb)
	s.watchSandbox(rec.ID, sb)
	s.emit(v1.ContainerEventType_CONTAINER_CREATED_EVENT, rec, rec.ID)
	s.emit(v1.ContainerEventType_CONTAINER_STARTED_EVENT, rec, rec.ID)
	return nil
}

// askPlugins is the step in which plugins may refuse a pod.
func (s *Server) askPlugins(rec *store.Sandbox, sb *sandbox.Sandbox) flow.Step {
	pod := func() *api.PodSandbox {
		ready := *rec
		noteReady(&ready, *sb)
		return nri.Pod(&ready, (*sb).Status().NetNS)
	}
	return flow.Step{
		Name: "ask plugins",
		Do: func(ctx context.Context) error {
			if s.plugins == nil {
				return nil
			}
			return s.plugins.RunPod(ctx, pod())
		},
		Undo: func(ctx context.Context) error {
			if s.plugins != nil {
				s.plugins.StopPod(ctx, pod())
				s.plugins.RemovePod(ctx, pod())
			}
			return nil
		},
	}
}

func noteReady(r *store.Sandbox, sb sandbox.Sandbox) {
	r.Driver, r.ReadyAt, r.IPs = sb.Record(), time.Now(), nil
	for _, ip := range sb.Status().IPs {
		r.IPs = append(r.IPs, ip.String())
	}
}

// discard takes a sandbox down that was just made.
func discard(ctx context.Context, sb sandbox.Sandbox) error {
	if err := sb.Stop(ctx); err != nil {
		return err
	}
	return sb.Remove(ctx)
}

// watchSandbox notes when the sandbox stops being ready by itself.
func (s *Server) watchSandbox(id string, sb sandbox.Sandbox) {
	s.work.start(func(ctx context.Context) {
		select {
		case <-ctx.Done():
		case <-sb.Done():
			s.noteStopped(id, false)
		}
	})
}

// noteStopped records that a sandbox is not ready any more, and says so once. released:
// its network is given back.
func (s *Server) noteStopped(id string, released bool) {
	fresh := false
	rec, err := s.store.Sandboxes.Update(id, func(r *store.Sandbox) {
		r.Released = r.Released || released
		if r.StoppedAt.IsZero() {
			r.StoppedAt, fresh = time.Now(), true
		}
	})
	if errdefs.IsNotFound(err) {
		return
	}
	if err != nil {
		s.log.Warn("stop of sandbox is not on disk", "sandbox", id, "error", err)
	}
	if fresh {
		s.emit(v1.ContainerEventType_CONTAINER_STOPPED_EVENT, rec, id)
	}
}
