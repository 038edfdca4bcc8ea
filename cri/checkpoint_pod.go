package cri

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/cri/store"
	"github.com/cricket-cri/cricket/sandbox"
)

// CheckpointPod saves a pod with all its running containers, which go on. Of the drivers,
// that of virtual machines can.
func (s *Server) CheckpointPod(ctx context.Context, req *v1.CheckpointPodRequest) (*v1.CheckpointPodResponse, error) {
	if err := s.checkpointPod(ctx, req); err != nil {
		return nil, fmt.Errorf("checkpoint pod: %w", err)
	}
	return &v1.CheckpointPodResponse{}, nil
}

func (s *Server) checkpointPod(ctx context.Context, req *v1.CheckpointPodRequest) error {
	if err := errors.Join(needDeadline(ctx), noOptions(req.GetOptions())); err != nil {
		return err
	}
	pod, err := s.store.Sandboxes.Find(req.GetPodSandboxId())
	if err != nil {
		return err
	}
	// Nothing is made or removed in the pod meanwhile. It is the call's own time that this
	// takes: a later call joins no earlier one.
	unlock, err := s.locks.Exclusive(ctx, pod.ID)
	if err != nil {
		return err
	}
	defer unlock()
	pod, sb, err := s.readySandbox(pod.ID)
	if err != nil {
		return err
	}
	saver, ok := sb.(sandbox.Checkpointer)
	if !ok {
		return fmt.Errorf("pods of runtime handler %q share the node's kernel, only virtual machines can be saved: %w", pod.Handler, errdefs.ErrNotImplemented)
	}
	containers, err := s.runningContainers(pod.ID, req.GetContainerIds())
	if err != nil {
		return err
	}
	dir, err := emptyDirectory(req.GetOutputPath())
	if err == nil {
		err = s.notSwept("output_path", dir)
	}
	if err != nil {
		return err
	}
	text, err := newCheckpointRecord(pod, containers)
	if err != nil {
		return err
	}
	ids := make([]string, len(containers))
	for i, c := range containers {
		ids[i] = c.ID
	}
	if err := saver.Checkpoint(ctx, dir, ids); err != nil {
		return err
	}
	if err := writeCheckpointRecord(dir, text); err != nil {
		return errors.Join(err, removeCheckpoint(dir))
	}
	return nil
}

// runningContainers wants ids to be the running containers of a pod, all of them, once.
func (s *Server) runningContainers(podID string, ids []string) ([]*store.Container, error) {
	if len(ids) == 0 {
		return nil, badField("container_ids", "is required")
	}
	var found []*store.Container
	for _, id := range ids {
		c, err := s.store.Containers.Find(id)
		if err != nil {
			return nil, fmt.Errorf("container_ids: %w", err)
		}
		if c.SandboxID != podID {
			return nil, badField("container_ids", "%s belongs to another sandbox", store.ShortID(c.ID))
		}
		if slices.ContainsFunc(found, func(o *store.Container) bool { return o.ID == c.ID }) {
			return nil, badField("container_ids", "%s is named twice", store.ShortID(c.ID))
		}
		if c.State() != v1.ContainerState_CONTAINER_RUNNING {
			return nil, fmt.Errorf("container_ids: container %s is in state %s: %w", store.ShortID(c.ID), c.State(), errdefs.ErrFailedPrecondition)
		}
		found = append(found, c)
	}
	for _, c := range s.store.ContainersOf(podID) {
		if c.State() == v1.ContainerState_CONTAINER_RUNNING && !slices.ContainsFunc(found, func(o *store.Container) bool { return o.ID == c.ID }) {
			return nil, fmt.Errorf("container_ids: container %s runs too: %w", store.ShortID(c.ID), errdefs.ErrFailedPrecondition)
		}
	}
	return found, nil
}

// emptyDirectory wants a path to be an empty directory, and not to lead elsewhere.
func emptyDirectory(path string) (string, error) {
	const field = "output_path"
	if !filepath.IsAbs(path) {
		return "", badField(field, "%q is not absolute", path)
	}
	path = filepath.Clean(path)
	is, err := os.Lstat(path)
	if err != nil {
		return "", fmt.Errorf("%s: %w: %w", field, errdefs.ErrFailedPrecondition, err)
	}
	if !is.IsDir() {
		return "", fmt.Errorf("%s: %s is not a directory: %w", field, path, errdefs.ErrFailedPrecondition)
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return "", fmt.Errorf("%s: %w", field, err)
	}
	if len(entries) > 0 {
		return "", fmt.Errorf("%s: %s is not empty: %w", field, path, errdefs.ErrFailedPrecondition)
	}
	return path, nil
}

// removeCheckpoint removes a driver's files.
func removeCheckpoint(dir string) error {
	files, err := filepath.Glob(filepath.Join(dir, sandbox.CheckpointPrefix+"*"))
	errs := []error{err}
	for _, f := range files {
		errs = append(errs, os.Remove(f))
	}
	return errors.Join(errs...)
}
