package vmsandbox

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/cricket-cri/cricket/vmsandbox/agent"
	"github.com/cricket-cri/cricket/vmsandbox/vmm"
)

// holdDisks waits until nobody else changes slots, has the machine grow or saves it. When ctx
// ends before that, the error is errdefs.ErrUnavailable.
func (p *pod) holdDisks(ctx context.Context) (release func(), err error) {
	if err := p.disks.Acquire(ctx, 1); err != nil {
		return nil, fmt.Errorf("wait for what else changes the machine: %w: %w", errdefs.ErrUnavailable, err)
	}
	return func() { p.disks.Release(1) }, nil
}

// attachImage shows an image to the guest, all its layers as one disk or as memory, and
// returns the directory there. It serves all containers of the pod that use it, and stays,
// for their successors; a disk, until its slot is wanted.
func (p *pod) attachImage(ctx context.Context, c *container, chain []digest.Digest) (dir string, err error) {
	release, err := p.holdDisks(ctx)
	if err != nil {
		return "", err
	}
	defer release()
	key := imageKey(chain)
	// The intent first, so that nobody takes the slot away again.
	err = c.note(func(r *containerRecord) {
		if !slices.Contains(r.Images, key) {
			r.Images = append(r.Images, key)
		}
	})
	if err != nil {
		return "", err
	}
	if dir, err := p.mapImage(ctx, key, chain); err != nil || dir != "" {
		return dir, err
	}
	slot, err := p.imageSlot(ctx, key, chain)
	return path.Join(agent.DirDisks, slot), err
}

func imageKey(chain []digest.Digest) string {
	whole := digest.Canonical.Digester()
	for _, id := range chain {
		_, _ = whole.Hash().Write([]byte(id.String() + "\n")) // never fails
	}
	return whole.Digest().String()
}

// imageSlot is the slot that has an image, which it is put into if it is in none.
func (p *pod) imageSlot(ctx context.Context, key string, chain []digest.Digest) (string, error) {
	images := p.snapshot().Images
	for slot, has := range images {
		if has == key {
			return slot, nil
		}
	}
	files, err := p.driver.opts.Layers.Flat(ctx, chain)
	if err != nil {
		return "", fmt.Errorf("make one disk of image: %w", err)
	}
	slot, err := p.freeImageSlot(ctx, images)
	if err != nil {
		return "", err
	}
	if err := p.changeImages(func(all map[string]string) { all[slot] = attempt + key }); err != nil {
		return "", err
	}
	if err := p.machine.SetDisk(ctx, slot, vmm.Disk{Files: files, ReadOnly: true, Direct: p.snapshot().Rootfs == RootfsDirect}); err != nil {
		return "", fmt.Errorf("put image into slot: %w", err)
	}
	err = p.machine.Guest.Mount(ctx, agent.Mount{
		Slot: slot, Target: path.Join(agent.DirDisks, slot), Type: "erofs", Options: []string{"ro"},
	})
	if err != nil {
		return "", fmt.Errorf("mount image: %w", err)
	}
	return slot, errors.Join(p.keepChain(key, chain), p.changeImages(func(all map[string]string) { all[slot] = key }))
}

// keepChain remembers what an image consists of, for whoever saves the machine.
func (p *pod) keepChain(key string, chain []digest.Digest) error {
	return p.change(func(s *podState) {
		s.Chains = maps.Clone(s.Chains) // others read the old one
		if s.Chains == nil {
			s.Chains = map[string][]digest.Digest{}
		}
		s.Chains[key] = slices.Clone(chain)
	})
}

func (p *pod) changeImages(f func(map[string]string)) error {
	return p.change(func(s *podState) {
		s.Images = maps.Clone(s.Images) // others read the old one
		if s.Images == nil {
			s.Images = map[string]string{}
		}
		f(s.Images)
	})
}

// attempt marks a slot that a disk is on its way into or out of. If that breaks off, nobody
// knows how far the guest has got, and the slot is left alone as long as there are others.
const attempt = "attempt "

// freeImageSlot takes a slot that has no disk, one whose image no container uses, or at last
// one that an attempt has left half way: it is emptied whatever is there.
func (p *pod) freeImageSlot(ctx context.Context, images map[string]string) (string, error) {
	slots, _ := vmm.Slots()
	for _, slot := range slots {
		if images[slot] == "" {
			return slot, nil
		}
	}
	used, err := p.usedImages()
	if err != nil {
		return "", err
	}
	for _, slot := range slots {
		if key := images[slot]; !used[key] && !strings.HasPrefix(key, attempt) {
			return slot, p.emptySlot(ctx, slot, key)
		}
	}
	for _, slot := range slots {
		if key, ok := strings.CutPrefix(images[slot], attempt); ok {
			return slot, p.emptySlot(ctx, slot, key)
		}
	}
	return "", fmt.Errorf("the images of the pod need more than %d disks (docs/limitations.md): %w", len(slots), errdefs.ErrResourceExhausted)
}

func (p *pod) emptySlot(ctx context.Context, slot, key string) error {
	if err := p.changeImages(func(all map[string]string) { all[slot] = attempt + key }); err != nil {
		return err
	}
	if err := p.machine.Guest.Unmount(ctx, path.Join(agent.DirDisks, slot)); err != nil {
		return fmt.Errorf("unmount image: %w", err)
	}
	if err := p.machine.ClearDisk(ctx, slot); err != nil {
		return fmt.Errorf("clear slot: %w", err)
	}
	return nil
}

func (p *pod) usedImages() (map[string]bool, error) {
	ids, err := p.containerIDs()
	used := map[string]bool{}
	for _, id := range ids {
		for _, key := range p.container(id).record().Images {
			used[key] = true
		}
	}
	return used, err
}

// attachWritable finds a disk for a container's writable layer: one of its own as long as
// there are any, then the one that fewest share.
func (p *pod) attachWritable(ctx context.Context, c *container) (string, error) {
	release, err := p.holdDisks(ctx)
	if err != nil {
		return "", err
	}
	defer release()
	users, err := p.writableUsers()
	if err != nil {
		return "", err
	}
	slots := layerSlots()
	slot := slices.MinFunc(slots, func(a, b string) int { return len(users[a]) - len(users[b]) })
	if err := c.note(func(r *containerRecord) { r.Slot = slot }); err != nil {
		return "", err
	}
	return slot, p.mountWritable(ctx, slot)
}

// forLayers is how many of the writable slots are for writable layers; the others are for
// the pod's own directories.
const forLayers = 3

func layerSlots() []string {
	_, slots := vmm.Slots()
	return slots[:forLayers]
}

func volumeSlots() []string {
	_, slots := vmm.Slots()
	return slots[forLayers:]
}

// writableUsers are the containers that have their writable layer in a slot.
func (p *pod) writableUsers() (map[string][]string, error) {
	ids, err := p.containerIDs()
	users := map[string][]string{}
	for _, id := range ids {
		if slot := p.container(id).record().Slot; slot != "" {
			users[slot] = append(users[slot], id)
		}
	}
	return users, err
}

// mountWritable mounts an empty disk in a slot, unless that has been done.
func (p *pod) mountWritable(ctx context.Context, slot string) error {
	if slices.Contains(p.snapshot().Writable, slot) {
		return nil
	}
	// One that an attempt left half way is as empty as a new one, but nobody knows whether
	// the guest has seen it, nor whether it is in its slot.
	if err := p.machine.Guest.Unmount(ctx, path.Join(agent.DirDisks, slot)); err != nil {
		return fmt.Errorf("unmount disk: %w", err)
	}
	if err := p.machine.ClearDisk(ctx, slot); err != nil {
		return fmt.Errorf("clear slot: %w", err)
	}
	if err := p.driver.opts.Disks.Remove(p.machine.ID(), slot); err != nil {
		return fmt.Errorf("take disk: %w", err)
	}
	file, err := p.driver.opts.Disks.Take(ctx, p.machine.ID(), slot)
	if err != nil {
		return fmt.Errorf("take disk: %w", err)
	}
	if err := p.machine.SetDisk(ctx, slot, vmm.Disk{Files: []string{file}, Volatile: true}); err != nil {
		return fmt.Errorf("put disk into slot: %w", err)
	}
	err = p.machine.Guest.Mount(ctx, agent.Mount{
		// What is deleted in the guest is given back to the host, where it counts.
		Slot: slot, Target: path.Join(agent.DirDisks, slot), Type: "ext4", Options: []string{"noatime", "discard"},
	})
	if err != nil {
		return fmt.Errorf("mount disk: %w", err)
	}
	return p.change(func(s *podState) { s.Writable = append(slices.Clone(s.Writable), slot) })
}

// volumeDisk is the directory of the guest in which the pod has room on a disk for the nth
// of its own directories, beginning with 0. The first have a disk each, whose file on the
// host is returned; the others share the last one.
func (p *pod) volumeDisk(ctx context.Context, nth int) (dir, file string, err error) {
	release, err := p.holdDisks(ctx)
	if err != nil {
		return "", "", err
	}
	defer release()
	slots := volumeSlots()
	last := len(slots) - 1
	slot := slots[min(nth, last)]
	if err := p.mountWritable(ctx, slot); err != nil {
		return "", "", err
	}
	if nth < last {
		file, err = p.driver.opts.Disks.Path(p.machine.ID(), slot)
	}
	return path.Join(agent.DirDisks, slot), file, err
}
