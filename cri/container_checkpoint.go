package cri

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/cri/ops"
	"github.com/cricket-cri/cricket/cri/store"
	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/checkpoint"
	"github.com/cricket-cri/cricket/runtime/flow"
)

const (
	// checkpointTime is how long a checkpoint may take whose request does not say.
	checkpointTime = 2 * time.Minute
	// checkpointSlack is how long the end of a checkpoint that takes too long may take.
	checkpointSlack = 15 * time.Second
)

// CheckpointContainer writes the state of a running container's processes and what they
// wrote to their file system to an archive (see package checkpoint). The container stands
// still meanwhile and goes on, whatever happens.
func (s *Server) CheckpointContainer(ctx context.Context, req *v1.CheckpointContainerRequest) (*v1.CheckpointContainerResponse, error) {
	timeout, err := checkpointTimeout(req.GetTimeout())
	if err != nil {
		return nil, err
	}
	if err := s.checkLocation(req.GetLocation()); err != nil {
		return nil, err
	}
	rec, live, err := s.runningContainer(req.GetContainerId(), "checkpoint")
	if err != nil {
		return nil, err
	}
	c, ok := live.(runtime.Checkpointer)
	if !ok {
		return nil, fmt.Errorf("container_id: the container is in a virtual machine, which CheckpointPod saves as a whole: %w", errdefs.ErrFailedPrecondition)
	}
	digest, err := digestOf(req)
	if err != nil {
		return nil, err
	}
	op := ops.Spec{Key: ops.Key{Kind: "checkpoint container", Name: rec.ID}, Digest: digest, Budget: timeout + checkpointSlack}
	_, err = ops.Do(ctx, s.ops, op, func(ctx context.Context) (struct{}, error) {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		return struct{}{}, s.checkpoint(ctx, rec, c, filepath.Clean(req.GetLocation()))
	})
	if err != nil {
		return nil, fmt.Errorf("checkpoint container: %w", err)
	}
	return &v1.CheckpointContainerResponse{}, nil
}

// checkpoint does the work. The caller's operation is the only one of the container.
func (s *Server) checkpoint(ctx context.Context, rec *store.Container, c runtime.Checkpointer, location string) error {
	dir, err := checkpoint.Make(s.opts.CheckpointDir, rec.ID)
	if err != nil {
		return err
	}
	about, err := s.aboutCheckpoint(rec)
	if err == nil {
		err = flow.Run(ctx, "checkpoint container",
			flow.Step{Name: "dump container", Do: func(ctx context.Context) error {
				deadline, _ := ctx.Deadline()
				return c.Checkpoint(ctx, string(dir), time.Until(deadline))
			}},
			flow.Step{Name: "write archive", Do: func(ctx context.Context) error { return dir.Write(ctx, about, location) }})
	}
	return errors.Join(err, dir.Remove())
}

func (s *Server) aboutCheckpoint(rec *store.Container) (checkpoint.About, error) {
	status, err := protoJSON(s.containerStatus(rec))
	if err != nil {
		return checkpoint.About{}, err
	}
	handler := s.opts.DefaultHandler
	if pod, err := s.store.Sandboxes.Get(rec.SandboxID); err == nil {
		handler = cmp.Or(pod.Handler, handler)
	}
	image := rec.Config.GetImage()
	return checkpoint.About{
		Config: checkpoint.Config{
			ID: rec.ID, Name: rec.Config.GetMetadata().GetName(),
			RootfsImage:     cmp.Or(image.GetUserSpecifiedImage(), image.GetImage()),
			RootfsImageRef:  rec.ImageRef,
			RootfsImageName: cmp.Or(rec.ImageName, image.GetUserSpecifiedImage(), image.GetImage()),
			Runtime:         handler, CreatedTime: rec.CreatedAt, CheckpointedAt: time.Now(),
		},
		Status: checkpoint.Status{
			CreatedAt: nanos(rec.CreatedAt), StartedAt: nanos(rec.StartedAt), Pid: uint32(max(rec.Pid, 0)),
		},
		CRIStatus: status, LogPath: rec.LogPath,
	}, nil
}

func checkpointTimeout(seconds int64) (time.Duration, error) {
	const most = int64(24 * time.Hour / time.Second)
	switch {
	case seconds == 0:
		return checkpointTime, nil
	case seconds < 0 || seconds > most:
		return 0, badField("timeout", "%d is out of range: 1 to %d seconds, or 0 for %s", seconds, most, checkpointTime)
	}
	return time.Duration(seconds) * time.Second, nil
}

// checkLocation wants the path of a file, or of none yet, in a directory that exists.
func (s *Server) checkLocation(path string) error {
	if !filepath.IsAbs(path) {
		return badField("location", "%q is not an absolute path", path)
	}
	switch info, err := os.Lstat(path); {
	case err == nil && !info.Mode().IsRegular():
		return badField("location", "%q exists and is no regular file", path)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return badField("location", "%v", err)
	}
	if info, err := os.Stat(filepath.Dir(filepath.Clean(path))); err != nil || !info.IsDir() {
		return badField("location", "%q is in no directory that exists", path)
	}
	return s.notSwept("location", filepath.Dir(filepath.Clean(path)))
}

// notSwept refuses a directory in which checkpoints are put together: the next daemon removes
// all that lies there.
func (s *Server) notSwept(field, dir string) error {
	if s.opts.CheckpointDir == "" {
		return nil
	}
	own, err := filepath.EvalSymlinks(s.opts.CheckpointDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // nothing can lie there
	}
	if err == nil {
		dir, err = filepath.EvalSymlinks(dir)
	}
	if err != nil {
		return badField(field, "%v", err)
	}
	if dir == own || strings.HasPrefix(dir, own+"/") {
		return badField(field, "%q is where checkpoints are put together, and is emptied", dir)
	}
	return nil
}
