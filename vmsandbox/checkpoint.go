package vmsandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/vmsandbox/vmm"
)

// goOnBudget is how long a machine may take to go on after it was saved.
const goOnBudget = 30 * time.Second

// checkpointing is a checkpoint on its way.
type checkpointing struct {
	*pod
	dir   string
	saved saved
	names []string // of the containers, in the guest
	files []*os.File
}

// Checkpoint implements sandbox.Checkpointer. The containers are frozen by the guest before
// the machine is paused: in what is saved they stand still, and a machine that goes on from
// it can be given its time, its names and its network before they do.
func (p *pod) Checkpoint(ctx context.Context, dir string, containers []string) (err error) {
	if !p.Status().Ready || p.machine == nil {
		return fmt.Errorf("sandbox is not ready: %w", errdefs.ErrFailedPrecondition)
	}
	snapshotter, ok := p.machine.Machine.(vmm.Snapshotter)
	if !ok {
		return fmt.Errorf("save machine: its hypervisor cannot: %w", errdefs.ErrNotImplemented)
	}
	release, err := p.holdDisks(ctx) // nothing is put into slots, and no other checkpoint is made
	if err != nil {
		return err
	}
	defer release()
	c := &checkpointing{pod: p, dir: dir}
	defer func() { err = errors.Join(err, c.close(err != nil)) }()
	if err := c.describe(containers); err != nil {
		return err
	}
	state, err := c.create(savedState)
	if err != nil {
		return err
	}
	disks := map[string]*os.File{}
	for _, slot := range c.saved.Writable {
		if disks[slot], err = c.create(fmt.Sprintf(savedDisk, slot)); err != nil {
			return err
		}
	}
	err = c.standingStill(ctx, func(ctx context.Context) error {
		if err := snapshotter.Snapshot(ctx, state, c.saved.Added); err != nil {
			return err
		}
		for slot, f := range disks {
			if err := p.driver.opts.Disks.Save(ctx, p.machine.ID(), slot, f); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return c.finish(ctx)
}

// describe says what is saved, and refuses what cannot be.
func (c *checkpointing) describe(containers []string) error {
	s := c.snapshot()
	switch {
	case s.Platform == (Platform{}):
		return fmt.Errorf("the machine was made by an earlier version of Cricket: %w", errdefs.ErrFailedPrecondition)
	case len(s.Mapped) > 0:
		return fmt.Errorf("the machine has images mapped as memory (vm.rootfs): %w", errdefs.ErrFailedPrecondition)
	case s.Added != sum(s.Pieces):
		return fmt.Errorf("the machine was given memory by an earlier version of Cricket: %w", errdefs.ErrFailedPrecondition)
	}
	if err := c.volumes.Savable(); err != nil {
		return err
	}
	volumes, err := c.volumes.State()
	if err != nil {
		return err
	}
	c.saved = saved{
		Version: savedVersion, Platform: s.Platform, Config: s.Config, Holder: s.Holder, Volumes: volumes, Added: s.Pieces,
		Writable: s.Writable, Images: map[string]savedImage{}, Files: map[string]savedFile{},
	}
	ids, err := c.containerIDs()
	if err != nil {
		return err
	}
	for _, id := range ids {
		if err := c.describeContainer(c.container(id), slices.Contains(containers, id)); err != nil {
			return err
		}
	}
	if len(c.saved.Containers) != len(containers) {
		return fmt.Errorf("some of the containers are not there: %w", errdefs.ErrNotFound)
	}
	return c.describeImages(s)
}

func (c *checkpointing) describeContainer(ct *container, wanted bool) error {
	r := ct.record()
	name := ct.name()
	switch {
	case !wanted && !r.exited():
		return fmt.Errorf("container %s is neither exited nor one of those to be saved: %w", ct.id, errdefs.ErrFailedPrecondition)
	case !wanted:
		c.saved.Others = append(c.saved.Others, savedOther{Name: name, Slot: r.Slot})
		return nil
	case r.exited() || r.Held || r.StartedAt.IsZero():
		return fmt.Errorf("container %s does not run: %w", ct.id, errdefs.ErrFailedPrecondition)
	}
	process, err := ct.process()
	if err != nil {
		return err
	}
	c.names = append(c.names, name)
	c.saved.Containers = append(c.saved.Containers, savedContainer{
		ID: ct.id, Name: name, Images: r.Images, Slot: r.Slot, Memory: r.Memory, Logged: r.Mirrored, Process: process,
	})
	return nil
}

// describeImages lists the images that the containers use. The others need not be where
// they go on.
func (c *checkpointing) describeImages(s podState) error {
	for slot, key := range s.Images {
		used := slices.ContainsFunc(c.saved.Containers, func(o savedContainer) bool { return slices.Contains(o.Images, key) })
		switch chain := s.Chains[key]; {
		case !used && key != "":
			c.saved.Empty = append(c.saved.Empty, slot)
		case used && len(chain) == 0:
			return fmt.Errorf("an image was shown to the machine by an earlier version of Cricket: %w", errdefs.ErrFailedPrecondition)
		case used:
			c.saved.Images[slot] = savedImage{Key: key, Chain: chain}
		}
	}
	slices.Sort(c.saved.Empty)
	return nil
}

// create makes one of the checkpoint's files. What has its name already is somebody else's.
func (c *checkpointing) create(name string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(c.dir, name), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("create %s: %w: %w", name, errdefs.ErrFailedPrecondition, err)
	}
	if err != nil {
		return nil, fmt.Errorf("create %s: %w", name, err)
	}
	c.files = append(c.files, f)
	return f, nil
}

// close closes the files and removes them if the checkpoint has failed.
func (c *checkpointing) close(failed bool) error {
	var errs []error
	for _, f := range c.files {
		errs = append(errs, f.Close())
		if failed {
			errs = append(errs, os.Remove(f.Name()))
		}
	}
	return errors.Join(errs...)
}

// standingStill calls f while the containers are frozen and the machine is paused. Both go
// on when it returns, whatever it returns; a pod that cannot is ended rather than left so.
func (c *checkpointing) standingStill(ctx context.Context, f func(context.Context) error) (err error) {
	p := c.pod
	if err := p.change(func(s *podState) { s.Frozen = c.names }); err != nil {
		return err
	}
	defer func() {
		goOn, cancel := context.WithTimeout(context.WithoutCancel(ctx), goOnBudget)
		defer cancel()
		if thawing := p.thaw(goOn); thawing != nil {
			err = errors.Join(err, thawing)
			p.fail(fmt.Errorf("let containers go on: %w", thawing))
		}
	}()
	var logs map[string]int64
	// What it is to undo has to be over: the call has its own time, and the caller's counts
	// afterwards.
	err = p.guest(context.WithoutCancel(ctx), callBudget, func(ctx context.Context) (err error) {
		if logs, err = p.machine.Guest.Freeze(ctx, c.names); err != nil {
			return err
		}
		return c.allRun(ctx)
	})
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return err
	}
	for i, o := range c.saved.Containers {
		c.saved.Containers[i].Log = logs[o.Name]
	}
	return p.paused(ctx, f)
}

// allRun wants the frozen containers to be ones that had not ended by then.
func (c *checkpointing) allRun(ctx context.Context) error {
	for _, name := range c.names {
		s, err := c.machine.Monitor.State(ctx, name)
		if err != nil {
			return err
		}
		if s.Phase != runtime.Running {
			return fmt.Errorf("container %s is %s: %w", name, s.Phase, errdefs.ErrFailedPrecondition)
		}
	}
	return nil
}

// paused calls f while the machine is paused. The ping that is under way is let end first.
func (p *pod) paused(ctx context.Context, f func(context.Context) error) (err error) {
	if err := p.still.Acquire(ctx, 1); err != nil {
		return fmt.Errorf("wait for the guest to answer: %w", err)
	}
	defer p.still.Release(1)
	within, cancel, err := p.within(ctx, 0)
	if err != nil {
		return err
	}
	defer cancel()
	began := time.Now()
	defer func() {
		goOn, cancel := context.WithTimeout(context.WithoutCancel(ctx), goOnBudget)
		defer cancel()
		if resuming := p.machine.Resume(goOn); resuming != nil {
			err = errors.Join(err, resuming)
			p.fail(fmt.Errorf("let machine go on: %w", resuming))
		}
		p.driver.opts.Log.Debug("machine was paused", "sandbox", p.id, "took", time.Since(began))
	}()
	pausing, stop := context.WithTimeout(context.WithoutCancel(ctx), goOnBudget)
	defer stop()
	if err := p.machine.Pause(pausing); err != nil {
		return err
	}
	if err := within.Err(); err != nil {
		return err
	}
	return f(within)
}

// thaw lets containers go on that were frozen to be saved.
func (p *pod) thaw(ctx context.Context) error {
	names := p.snapshot().Frozen
	if len(names) == 0 {
		return nil
	}
	err := p.guest(ctx, longBudget, func(ctx context.Context) error { return p.machine.Guest.Thaw(ctx, names) })
	if err != nil {
		return fmt.Errorf("thaw containers: %w", err)
	}
	return p.change(func(s *podState) { s.Frozen = nil })
}

// finish writes the record, which makes the files a checkpoint. What it says of them, and
// of the images, is found out when all goes on again.
func (c *checkpointing) finish(ctx context.Context) error {
	for _, f := range c.files {
		is, err := measure(ctx, f)
		if err != nil {
			return fmt.Errorf("read %s: %w", filepath.Base(f.Name()), err)
		}
		c.saved.Files[filepath.Base(f.Name())] = is
	}
	for slot, image := range c.saved.Images {
		_, sums, err := c.driver.imageFiles(ctx, image)
		if err != nil {
			return err
		}
		image.Files = sums
		c.saved.Images[slot] = image
	}
	content, err := json.Marshal(c.saved)
	if err != nil {
		return fmt.Errorf("encode checkpoint: %w", err)
	}
	f, err := c.create(savedRecord)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, strings.NewReader(string(content))); err != nil {
		return fmt.Errorf("write %s: %w", savedRecord, err)
	}
	for _, f := range c.files {
		if err := f.Sync(); err != nil {
			return fmt.Errorf("write %s: %w", filepath.Base(f.Name()), err)
		}
	}
	return ctx.Err()
}

// imageFiles are the files of an image's disk on this node, and what they contain.
func (d *Driver) imageFiles(ctx context.Context, i savedImage) (files []string, sums []digest.Digest, err error) {
	if files, err = d.opts.Layers.Flat(ctx, i.Chain); err != nil {
		return nil, nil, fmt.Errorf("find files of image: %w", err)
	}
	for _, file := range files {
		sum, err := d.opts.Layers.Digest(ctx, file)
		if err != nil {
			return nil, nil, fmt.Errorf("identify file of image: %w", err)
		}
		sums = append(sums, sum)
	}
	return files, sums, nil
}
