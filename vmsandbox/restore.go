package vmsandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/cricket-cri/cricket/runtime/flow"
	"github.com/cricket-cri/cricket/sandbox"
	"github.com/cricket-cri/cricket/vmsandbox/agent"
	"github.com/cricket-cri/cricket/vmsandbox/vmm"
)

// restoration is what a pod goes on from.
type restoration struct {
	sandbox.Restoration
	saved *saved
	// images are the files of the disks, by slot.
	images map[string][]string
}

// Restore implements sandbox.Restorer. The machine runs before it is told who it is, as
// clones do; its containers are frozen from before it was saved until they are started.
func (d *Driver) Restore(ctx context.Context, r sandbox.Restoration) (sandbox.Sandbox, error) {
	if err := d.checkPod(&r.Config); err != nil {
		return nil, fmt.Errorf("check sandbox: %w", err)
	}
	from, err := d.readRestoration(ctx, r)
	if err != nil {
		return nil, err
	}
	b := &birth{pod: d.newPod(podState{Config: r.Config, Boot: d.boot}), told: make(chan struct{}), from: from}
	return b.run(ctx, "restore virtual sandbox",
		flow.Step{Name: "restore machine", Do: b.restoreMachine, Undo: b.removeMachine},
		flow.Step{Name: "forget others", Do: b.alive(b.forgetOthers)},
		flow.Step{Name: "restore containers", Do: b.alive(b.restoreContainers), Undo: b.deleteMirrors})
}

// readRestoration reads a checkpoint and finds here what it needs.
func (d *Driver) readRestoration(ctx context.Context, r sandbox.Restoration) (*restoration, error) {
	s, err := readSaved(r.Dir)
	if err != nil {
		return nil, err
	}
	here, err := d.opts.Machines.Platform(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.Platform.fits(here); err != nil {
		return nil, err
	}
	if err := s.fitsPod(&r.Config); err != nil {
		return nil, err
	}
	from := &restoration{Restoration: r, saved: s, images: map[string][]string{}}
	if len(r.Containers) != len(s.Containers) {
		return nil, unfit("%d containers, it has %d", len(r.Containers), len(s.Containers))
	}
	for _, c := range r.Containers {
		if err := checkContainer(&c.Config); err != nil {
			return nil, err
		}
		if s.container(c.From) == nil {
			return nil, damaged("there is no container %.100q", c.From)
		}
	}
	for slot, image := range s.Images {
		files, sums, err := d.imageFiles(ctx, image)
		if errdefs.IsNotFound(err) {
			return nil, fmt.Errorf("an image of the checkpoint is not there: %w: %w", errdefs.ErrFailedPrecondition, err)
		}
		if err != nil {
			return nil, err
		}
		if !slices.Equal(sums, image.Files) {
			return nil, unfit("an image is stored in another form here")
		}
		from.images[slot] = files
	}
	return from, nil
}

func (s *saved) container(id string) *savedContainer {
	for i, c := range s.Containers {
		if c.ID == id {
			return &s.Containers[i]
		}
	}
	return nil
}

// fitsPod refuses what processes that run already could not be given.
func (s *saved) fitsPod(c *sandbox.Config) error {
	was := &s.Config
	switch {
	case was.PID != c.PID:
		return unfit("namespace_options.pid: the pod had %s", was.PID)
	case (was.UserNS == nil) != (c.UserNS == nil),
		was.UserNS != nil && (!slices.Equal(was.UserNS.UIDs, c.UserNS.UIDs) || !slices.Equal(was.UserNS.GIDs, c.UserNS.GIDs)):
		return unfit("namespace_options.userns_options: the pod had others")
	case was.UserNS != nil && was.Hostname != c.Hostname:
		return unfit("hostname: a pod with a user namespace keeps %q", was.Hostname)
	case !maps.Equal(was.Sysctls, c.Sysctls):
		return unfit("linux.sysctls: the pod had others")
	}
	return nil
}

// restoreMachine has the machine go on, with disks of its own.
func (b *birth) restoreMachine(ctx context.Context) error {
	state, err := b.from.open(ctx, savedState)
	if err != nil {
		return err
	}
	defer state.Close()
	m, err := b.driver.opts.Machines.Restore(ctx, SavedMachine{State: state, Added: b.from.saved.Added, Disks: b.loadDisks})
	if err != nil {
		return fmt.Errorf("restore machine: %w", err)
	}
	s := b.from.saved
	err = b.takeMachine(ctx, m, VolumeOptions{State: s.Volumes, Moved: b.from.moved()}, func(p *podState) {
		p.Writable, p.Holder = slices.Clone(s.Writable), s.Holder
		p.Added, p.Pieces = sum(s.Added), s.Added
		p.Images, p.Chains = map[string]string{}, map[string][]digest.Digest{}
		for slot, i := range s.Images {
			p.Images[slot], p.Chains[i.Key] = i.Key, i.Chain
		}
		for _, slot := range s.Empty {
			p.Images[slot] = attempt
		}
	})
	if err != nil {
		return err
	}
	if err := b.keepVolumes(); err != nil {
		return errors.Join(err, b.removeMachine(context.WithoutCancel(ctx)))
	}
	return nil
}

// moved are the containers' volumes as they are here.
func (r *restoration) moved() []MovedVolumes {
	var moved []MovedVolumes
	for _, c := range r.Containers {
		moved = append(moved, MovedVolumes{From: c.From, ID: c.Config.ID, Mounts: c.Config.Mounts})
	}
	return moved
}

// open opens a file of the checkpoint whose content is what its record says.
func (r *restoration) open(ctx context.Context, name string) (*os.File, error) {
	f, err := openSaved(r.Dir, name)
	if err != nil {
		return nil, err
	}
	is, err := measure(ctx, f)
	if err == nil && is != r.saved.Files[name] {
		err = damaged("%s has not the content that the record says", name)
	}
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return f, nil
}

// loadDisks makes the disks of a machine.
func (b *birth) loadDisks(ctx context.Context, machine string) (map[string]vmm.Disk, error) {
	disks := map[string]vmm.Disk{}
	for _, slot := range b.from.saved.Writable {
		f, err := b.from.open(ctx, fmt.Sprintf(savedDisk, slot))
		if err != nil {
			return nil, err
		}
		file, err := b.driver.opts.Disks.Load(ctx, machine, slot, f)
		f.Close()
		if err != nil {
			return nil, err
		}
		disks[slot] = vmm.Disk{Files: []string{file}, Volatile: true}
	}
	for slot, files := range b.from.images {
		disks[slot] = vmm.Disk{Files: files, ReadOnly: true}
	}
	return disks, nil
}

// forgetOthers removes from the guest what the checkpoint's pod had beside the containers
// that are restored: containers that had ended, and their images.
func (b *birth) forgetOthers(ctx context.Context) error {
	return b.guest(ctx, longBudget, func(ctx context.Context) error {
		s := b.from.saved
		var paths []string
		for _, o := range s.Others {
			if err := b.machine.Monitor.Delete(ctx, o.Name); err != nil && !errdefs.IsNotFound(err) {
				return fmt.Errorf("forget container %s: %w", o.Name, err)
			}
			paths = append(paths, bundle(o.Name), path.Join(agent.DirLogs, o.Name))
			if o.Slot != "" {
				paths = append(paths, path.Join(agent.DirDisks, o.Slot, o.Name))
			}
		}
		if len(paths) > 0 {
			if err := b.machine.Guest.Remove(ctx, paths); err != nil {
				return fmt.Errorf("forget containers: %w", err)
			}
		}
		for _, slot := range s.Empty {
			if err := b.machine.Guest.Unmount(ctx, path.Join(agent.DirDisks, slot)); err != nil {
				b.driver.opts.Log.Debug("slot stays in use", "sandbox", b.id, "slot", slot, "reason", err)
				continue // nothing is put into it any more
			}
			if err := b.changeImages(func(all map[string]string) { delete(all, slot) }); err != nil {
				return err
			}
		}
		return nil
	})
}

// restoreContainers makes the guest's containers those of the pod.
func (b *birth) restoreContainers(ctx context.Context) error {
	for _, c := range b.from.Containers {
		if err := b.restoreContainer(ctx, c); err != nil {
			return errors.Join(fmt.Errorf("restore container %s: %w", c.Config.ID, err), b.deleteMirrors(context.WithoutCancel(ctx)))
		}
	}
	return nil
}

func (b *birth) restoreContainer(ctx context.Context, r sandbox.RestoredContainer) error {
	was := b.from.saved.container(r.From)
	c := &creation{container: b.container(r.Config.ID), config: r.Config}
	if err := c.claim(); err != nil {
		return err
	}
	if err := writeJSON(c.dir(processFile), was.Process); err != nil {
		return err
	}
	err := c.note(func(n *containerRecord) {
		*n = containerRecord{Images: was.Images, Slot: was.Slot, Memory: was.Memory, Name: was.Name, Held: true}
	})
	if err != nil {
		return err
	}
	if r.Config.Resources != nil {
		if err := c.Update(ctx, r.Config.Resources); err != nil {
			return fmt.Errorf("change limits: %w", err)
		}
	}
	if was.Logged != (r.Config.LogPath != "") {
		return unfit("log_path: a container has a log for life, or none")
	}
	if err := c.mirrorLogFrom(ctx, was.Log); err != nil {
		return err
	}
	return c.note(func(n *containerRecord) { n.Created = true })
}

// deleteMirrors ends the mirrors of all containers. It is idempotent.
func (b *birth) deleteMirrors(ctx context.Context) error {
	ids, err := b.containerIDs()
	errs := []error{err}
	for _, id := range ids {
		errs = append(errs, b.container(id).deleteMirror(ctx))
	}
	return errors.Join(errs...)
}
