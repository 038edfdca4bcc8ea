package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cricket-cri/cricket/runtime/checkpoint"
	"github.com/cricket-cri/cricket/runtime/monitor"
)

// Checkpoint has the OCI runtime dump the container's processes, and copies what they
// wrote to their file system while they stand still. It implements runtime.Checkpointer.
func (c *container) Checkpoint(ctx context.Context, dir string, timeout time.Duration) error {
	criu, err := c.pod.driver.checkCRIU(ctx)
	if err != nil {
		return err
	}
	if err := copyFile(filepath.Join(c.pod.driver.bundle(c.id), "config.json"), checkpoint.SpecFile(dir)); err != nil {
		return fmt.Errorf("copy specification: %w", err)
	}
	r := monitor.CheckpointRequest{
		Images: checkpoint.ImagesDir(dir), Work: dir, Programs: filepath.Dir(criu), Timeout: timeout,
	}
	err = c.monitor().Checkpoint(ctx, c.id, r, func(ctx context.Context) error {
		return c.writeChanges(ctx, checkpoint.RootfsFile(dir))
	})
	if complaint := checkpoint.Complaint(dir); err != nil && complaint != "" && !errdefs.IsDeadlineExceeded(err) {
		// The state of the container's processes is what CRIU cannot cope with.
		return fmt.Errorf("CRIU cannot dump the container: %w: %s: %w", errdefs.ErrFailedPrecondition, complaint, err)
	}
	return err
}

// checkCRIU returns the path of a CRIU that works here, with the driver's OCI runtime.
func (k *Kernel) checkCRIU(ctx context.Context) (string, error) {
	if k.opts.CRIU == nil {
		return "", fmt.Errorf("checkpoints are switched off: %w", errdefs.ErrFailedPrecondition)
	}
	f, err := k.opts.Runtime.Features(ctx)
	if err != nil {
		return "", err
	}
	if !f.Checkpoint {
		return "", fmt.Errorf("the OCI runtime %s (%s) is not built with CRIU: %w; use the handler of one that is, such as runc",
			k.opts.Runtime.Path, f.Version, errdefs.ErrFailedPrecondition)
	}
	return k.opts.CRIU.Check(ctx)
}

// writeChanges writes the writable layer as a layer of an image.
func (c *container) writeChanges(ctx context.Context, path string) error {
	out, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("write changes of the root file system: %w", err)
	}
	return errors.Join(checkpoint.WriteRootfs(ctx, c.upper(), out), out.Close())
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
