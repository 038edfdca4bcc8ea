package vmsandbox

import (
	"context"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/cricket-cri/cricket/vmsandbox/agent"
	"github.com/cricket-cri/cricket/vmsandbox/vmm"
)

// Rootfs is how a pod's machine reads the images of its containers.
type Rootfs string

const (
	// RootfsDisk is by disks, through the host's page cache, into the guest's own.
	RootfsDisk Rootfs = "disk"
	// RootfsDAX is as memory, which is the host's page cache, as far as the machine has room
	// for that, and by disks beyond.
	RootfsDAX Rootfs = "dax"
	// RootfsDirect is by disks past the host's page cache.
	RootfsDirect Rootfs = "direct"
)

// mostMapped is how many files an image may consist of to be mapped: metadata and two
// layers. Each costs the guest's time, and one of few ports.
const mostMapped = 3

// mapImage maps an image, if the pod's are and this one can be, and returns its directory
// in the guest; empty if it is to become a disk. What is mapped stays as long as the
// machine: there is no unplugging it.
func (p *pod) mapImage(ctx context.Context, key string, chain []digest.Digest) (dir string, err error) {
	s := p.snapshot()
	if m, ok := s.Mapped[key]; ok {
		return m.dir(), nil
	}
	mapper, able := p.machine.Machine.(vmm.Mapper)
	isDisk := slices.Contains(slices.Collect(maps.Values(s.Images)), key)
	if s.Rootfs != RootfsDAX || !able || isDisk {
		return "", nil
	}
	files, err := p.driver.opts.Layers.Flat(ctx, chain)
	if err != nil {
		return "", fmt.Errorf("find files of image: %w", err)
	}
	if len(files) > mostMapped || s.contend(files) {
		return "", nil
	}
	buses, err := mapper.Map(ctx, files...)
	if errdefs.IsResourceExhausted(err) || errdefs.IsInvalidArgument(err) {
		p.driver.opts.Log.Debug("image is not mapped", "sandbox", p.id, "reason", err)
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("map image: %w", err)
	}
	fresh := mappedImage{Bus: buses[0], Files: files}
	err = p.mountMapped(ctx, s, fresh, buses)
	if errdefs.IsNotImplemented(err) || errdefs.IsUnavailable(err) {
		// The guest's kernel cannot, or an attempt that nobody knows of has the device.
		p.driver.opts.Log.Warn("image is not mapped", "sandbox", p.id, "reason", err)
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return fresh.dir(), p.change(func(s *podState) {
		s.Mapped = maps.Clone(s.Mapped) // others read the old one
		if s.Mapped == nil {
			s.Mapped = map[string]mappedImage{}
		}
		s.Mapped[key] = fresh
	})
}

// mappedImage is an image that is mapped, with the bus of its first file.
type mappedImage struct {
	Bus   int      `json:"bus"`
	Files []string `json:"files"`
}

func (m mappedImage) dir() string { return path.Join(agent.DirDisks, "map"+strconv.Itoa(m.Bus)) }

// contend tells whether one of the files is the first of an image and another one of
// another: the kernel gives a device to the file system that begins with it alone. The
// image of one layer and one that is based on it are such.
func (s podState) contend(files []string) bool {
	for _, m := range s.Mapped {
		if m.Files[0] != files[0] && (slices.Contains(files, m.Files[0]) || slices.Contains(m.Files, files[0])) {
			return true
		}
	}
	return false
}

// mountMapped mounts mapped files, unless another image begins with the same one: then the
// images are the same.
func (p *pod) mountMapped(ctx context.Context, s podState, fresh mappedImage, buses []int) error {
	for _, m := range s.Mapped {
		if m.Bus == fresh.Bus {
			return nil
		}
	}
	dir := fresh.dir()
	// An attempt may have mounted it and not lived to say so; nobody uses it then.
	if err := p.machine.Guest.Unmount(ctx, dir); err != nil {
		return fmt.Errorf("unmount image: %w", err)
	}
	err := p.machine.Guest.Mount(ctx, agent.Mount{Memory: buses, Target: dir, Type: "erofs", Options: []string{"ro"}})
	if err != nil {
		return fmt.Errorf("mount mapped image: %w", err)
	}
	return nil
}
