package cri

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/cri/nri"
	"github.com/cricket-cri/cricket/cri/ops"
	"github.com/cricket-cri/cricket/cri/store"
	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/flow"
	"github.com/cricket-cri/cricket/runtime/logfile"
	"github.com/cricket-cri/cricket/sandbox"
)

// CreateContainer makes a container in a ready sandbox; it does not start it.
func (s *Server) CreateContainer(ctx context.Context, req *v1.CreateContainerRequest) (*v1.CreateContainerResponse, error) {
	meta := req.GetConfig().GetMetadata()
	if meta.GetName() == "" {
		return nil, fmt.Errorf("config.metadata.name is required: %w", errdefs.ErrInvalidArgument)
	}
	sb, err := s.store.Sandboxes.Find(req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	digest, err := digestOf(req)
	if err != nil {
		return nil, err
	}
	op := ops.Spec{Key: createKey(sb.ID, meta), Digest: digest, Budget: createBudget, Park: true}
	id, err := ops.Do(ctx, s.ops, op, func(ctx context.Context) (string, error) {
		unlock, err := s.locks.Shared(ctx, sb.ID)
		if err != nil {
			return "", err
		}
		defer unlock()
		return s.createContainer(ctx, sb.ID, req.GetConfig())
	})
	if err != nil {
		return nil, fmt.Errorf("create container: %w", err)
	}
	return &v1.CreateContainerResponse{ContainerId: id}, nil
}

func createKey(sandboxID string, m *v1.ContainerMetadata) ops.Key {
	return ops.Key{Kind: "create container", Name: store.ContainerName(sandboxID, m)}
}

// createContainer does the work; the caller holds the sandbox's lock, shared.
func (s *Server) createContainer(ctx context.Context, sandboxID string, config *v1.ContainerConfig) (string, error) {
	pod, sb, err := s.readySandbox(sandboxID)
	if err != nil {
		return "", err
	}
	rec := &store.Container{
		ID: newID(), SandboxID: pod.ID, Boot: s.opts.Boot, Config: config, CreatedAt: time.Now(),
	}
	unlock, err := s.locks.Exclusive(ctx, rec.ID)
	if err != nil {
		return "", err
	}
	defer unlock()
	plugins := hold{plugins: s.plugins}
	defer plugins.release()
	var cfg runtime.Config
	var change *adjustment
	err = flow.Run(ctx, "create container",
		flow.Step{Name: "resolve configuration", Do: func(ctx context.Context) (err error) {
			if cfg, err = s.resolve(ctx, pod, rec); err != nil {
				return err
			}
			change, err = s.adjustmentOf(pod, rec)
			cfg.Adjust = func(sp *specs.Spec) error {
				plugins.take()
				return change.apply(ctx, sp)
			}
			return err
		}},
		flow.Step{
			Name: "record intent",
			Do:   func(context.Context) error { return s.store.Containers.Add(rec) },
			Undo: func(context.Context) error { return s.store.Containers.Delete(rec.ID) },
		},
		flow.Step{
			Name: "open log",
			Do:   func(context.Context) error { return openLog(rec.LogPath) },
			Undo: func(context.Context) error { return dropLog(rec.LogPath) },
		},
		s.makeContainer(sb, &cfg),
		flow.Step{
			Name: "record container",
			Do: func(context.Context) error {
				rec, err = s.store.Containers.Update(rec.ID, func(r *store.Container) {
					r.MadeAt = time.Now()
					change.note(r)
				})
				return err
			},
		})
	if err != nil {
		change.undone(context.WithoutCancel(ctx))
		s.work.hurry() // what could not be undone has no record any more
		return "", err
	}
	s.emit(v1.ContainerEventType_CONTAINER_CREATED_EVENT, pod, rec.ID)
	if s.plugins != nil {
		s.plugins.Created(ctx, s.podShown(pod), nri.Container(rec))
	}
	return rec.ID, nil
}

// openLog makes the log file of a container, and its directory, which the kubelet has
// made but other clients need not have: what cannot be logged is refused, since the
// monitor would drop the output. No path, no log.
func openLog(path string) error {
	if path == "" {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("config.log_path: %w: %w", errdefs.ErrFailedPrecondition, err)
	}
	log := new(logfile.Set).Open(path, 0)
	if err := errors.Join(log.Err(), log.Close()); err != nil {
		return fmt.Errorf("config.log_path: %w: %w", errdefs.ErrFailedPrecondition, err)
	}
	return nil
}

// dropLog removes the log of a container that was not made. The kubelet numbers a
// container's restarts by the logs that it finds where the runtime knows of none.
func dropLog(path string) error {
	if path == "" {
		return nil
	}
	is, err := os.Lstat(path)
	if err == nil && is.Mode().IsRegular() && is.Size() == 0 {
		err = os.Remove(path)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove log: %w", err)
	}
	return nil
}

// makeContainer is the step in which the driver makes the container.
func (s *Server) makeContainer(sb sandbox.Sandbox, cfg *runtime.Config) flow.Step {
	var c runtime.Container
	return flow.Step{
		Name: "make container",
		Do: func(ctx context.Context) (err error) {
			if c, err = sb.NewContainer(ctx, *cfg); err != nil {
				return err
			}
			s.live.setContainer(cfg.ID, c)
			return nil
		},
		Undo: func(ctx context.Context) error {
			s.live.forgetContainer(cfg.ID)
			return c.Remove(ctx)
		},
	}
}
