package vmsandbox

import (
	"context"
	"fmt"
	"path"

	"github.com/containerd/errdefs"

	"github.com/cricket-cri/cricket/vmsandbox/agent"
)

// Remove deletes what the container left; it is idempotent and cleans up after a container
// that was half made.
func (c *container) Remove(ctx context.Context) error {
	for _, f := range []func(context.Context) error{
		// The mirror first: it reads what the guest is about to delete.
		c.deleteMirror,
		c.ignoreDead(c.deleteProcess), c.ignoreDead(c.removeVolumes),
		c.ignoreDead(c.removeBundle), c.ignoreDead(c.removeLayer), c.unclaim,
	} {
		if err := f(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (c *container) deleteMirror(ctx context.Context) error {
	if !c.record().Mirrored {
		return nil
	}
	if err := c.pod.driver.opts.Mirrors.Delete(ctx, c.id); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("end mirror of log: %w", err)
	}
	return nil
}

func (c *container) deleteProcess(ctx context.Context) error {
	if err := c.pod.machine.Monitor.Delete(ctx, c.name()); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	return nil
}

func (c *container) removeVolumes(ctx context.Context) error {
	if c.pod.volumes == nil {
		return nil
	}
	if err := c.pod.volumes.RemoveContainer(ctx, c.id); err != nil {
		return fmt.Errorf("remove volumes: %w", err)
	}
	return c.pod.keepVolumes()
}

func (c *container) removeBundle(ctx context.Context) error {
	name := c.name()
	paths := []string{bundle(name), path.Join(agent.DirLogs, name)}
	if err := c.pod.machine.Guest.Remove(ctx, paths); err != nil {
		return fmt.Errorf("remove bundle: %w", err)
	}
	return nil
}

// removeLayer frees the writable layer; the disk itself stays with the machine.
func (c *container) removeLayer(ctx context.Context) error {
	slot := c.record().Slot
	if slot == "" {
		return nil
	}
	if err := c.pod.machine.Guest.Remove(ctx, []string{path.Join(agent.DirDisks, slot, c.name())}); err != nil {
		return fmt.Errorf("remove writable layer: %w", err)
	}
	return nil
}
