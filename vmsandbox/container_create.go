package vmsandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/flow"
	"github.com/cricket-cri/cricket/runtime/monitor"
	"github.com/cricket-cri/cricket/runtime/spec"
	"github.com/cricket-cri/cricket/vmsandbox/agent"
	"github.com/cricket-cri/cricket/vmsandbox/seccomp"
	"github.com/cricket-cri/cricket/vmsandbox/vmm"
)

// rootfsDir is the root file system's mount point in the bundle.
const rootfsDir = "rootfs"

// overlaySource is what mount tables and df(1) show as the device of a root file system.
const overlaySource = "source=overlay"

// creation is a container on its way.
type creation struct {
	*container
	config  runtime.Config
	request monitor.CreateRequest
	place   spec.Place
	lower   string // the image's directory in the guest
	upper   string // the directory of the writable layer in the guest
}

// NewContainer makes a container that is created and not yet started, or leaves nothing
// behind.
func (p *pod) NewContainer(ctx context.Context, config runtime.Config) (runtime.Container, error) {
	if err := checkContainer(&config); err != nil {
		return nil, err
	}
	if !p.Status().Ready || p.machine == nil {
		return nil, fmt.Errorf("sandbox is not ready: %w", errdefs.ErrFailedPrecondition)
	}
	c := &creation{container: p.container(config.ID), config: config}
	within := func(f func(context.Context) error) func(context.Context) error {
		return func(ctx context.Context) error { return p.guest(ctx, longBudget, f) }
	}
	err := flow.Run(ctx, "create virtual container",
		flow.Step{Name: "claim name", Do: func(context.Context) error { return c.claim() }, Undo: c.unclaim},
		flow.Step{Name: "grow memory", Do: within(func(ctx context.Context) error { return p.growFor(ctx, c.id, config.Resources) })},
		flow.Step{Name: "attach layers", Do: within(c.attachLayers)},
		flow.Step{Name: "attach writable layer", Do: within(c.attachWritable), Undo: c.ignoreDead(c.removeLayer)},
		flow.Step{Name: "show volumes", Do: within(c.showVolumes), Undo: c.ignoreDead(c.removeVolumes)},
		flow.Step{Name: "find place", Do: within(c.findPlace)},
		flow.Step{Name: "make directories", Do: within(c.makeDirs), Undo: c.ignoreDead(c.removeBundle)},
		flow.Step{Name: "create process", Do: within(c.createProcess), Undo: c.ignoreDead(c.deleteProcess)},
		flow.Step{Name: "mirror log", Do: c.mirrorLog, Undo: c.deleteMirror},
		flow.Step{Name: "write record", Do: func(context.Context) error {
			return c.note(func(r *containerRecord) { r.Created = true })
		}})
	if err != nil {
		return nil, err
	}
	return c.container, nil
}

// claim lets the sandbox know of the container before there is anything of it.
func (c *creation) claim() error {
	err := os.Mkdir(c.dir(), 0o700)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("claim container name: %w: %w", errdefs.ErrAlreadyExists, err)
	}
	if err != nil {
		return fmt.Errorf("claim container name: %w", err)
	}
	return nil
}

func (c *container) unclaim(context.Context) error { return os.RemoveAll(c.dir()) }

// ignoreDead is f as long as there is a guest: with it everything in it is gone.
func (c *container) ignoreDead(f func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		if _, ended := c.pod.ended(); ended != nil || c.pod.machine == nil {
			return nil
		}
		err := c.pod.guest(ctx, longBudget, f)
		if _, ended := c.pod.ended(); ended != nil {
			return nil
		}
		return err
	}
}

// attachLayers shows the image, and those that are volumes, to the guest.
func (c *creation) attachLayers(ctx context.Context) (err error) {
	if c.lower, err = c.pod.attachImage(ctx, c.container, c.config.Image); err != nil {
		return err
	}
	c.place.ImageMounts = map[string]string{}
	for i, m := range c.config.Mounts {
		if len(m.Image) == 0 {
			continue
		}
		lower, err := c.pod.attachImage(ctx, c.container, m.Image)
		if err != nil {
			return err
		}
		target := path.Join("volumes", strconv.Itoa(i))
		c.request.Overlays = append(c.request.Overlays, monitor.Overlay{
			Target: target, Lower: []string{lower}, UserNS: c.pod.namespace(specs.UserNamespace), SubPath: m.SubPath,
			Options: []string{overlaySource},
		})
		c.place.ImageMounts[path.Clean(m.Destination)] = path.Join(bundle(c.id), target)
	}
	return nil
}

func (c *creation) attachWritable(ctx context.Context) error {
	slot, err := c.pod.attachWritable(ctx, c.container)
	if err != nil {
		return err
	}
	c.upper = path.Join(agent.DirDisks, slot, c.id)
	c.request.Rootfs = monitor.Overlay{
		Target: rootfsDir, Lower: []string{c.lower}, Upper: path.Join(c.upper, "upper"), Work: path.Join(c.upper, "work"),
		UserNS: c.pod.namespace(specs.UserNamespace), Options: []string{overlaySource},
	}
	return nil
}

// showVolumes replaces the mounts' sources on the host by those in the guest.
func (c *creation) showVolumes(ctx context.Context) error {
	mounts := slices.Clone(c.config.Mounts)
	for i, m := range mounts {
		if len(m.Image) > 0 {
			continue
		}
		shown, err := c.pod.volumes.Add(ctx, c.id, m)
		if err != nil {
			return errors.Join(fmt.Errorf("show volume %s: %w", m.Destination, err), c.removeVolumes(ctx))
		}
		mounts[i] = shown
	}
	c.config.Mounts = mounts
	if err := c.pod.keepVolumes(); err != nil {
		return errors.Join(err, c.removeVolumes(ctx))
	}
	return nil
}

// keepVolumes records what the volumes have become.
func (p *pod) keepVolumes() error {
	p.keeping.Lock()
	defer p.keeping.Unlock()
	return p.recordVolumes()
}

// recordVolumes is called by whoever holds keeping.
func (p *pod) recordVolumes() error {
	state, err := p.volumes.State()
	if err != nil {
		return err
	}
	return p.change(func(s *podState) { s.Volumes = state })
}

// makeDirs makes the directories in the guest that the container consists of, and keeps on
// the host what others in the container inherit.
func (c *creation) makeDirs(ctx context.Context) error {
	c.config.ApparmorProfile, c.config.SELinuxLabel, c.config.MountLabel = "", "", ""
	c.config.Resources = inGuest(c.config.Resources)
	s, err := c.buildSpec(ctx)
	if err != nil {
		return err
	}
	program, err := takeFilter(&c.pod.driver.filters, s, bundle(c.id))
	if err != nil {
		return err
	}
	c.request.Spec = s
	if err := writeJSON(c.dir(processFile), s.Process); err != nil {
		return err
	}
	uid, gid := rootOf(c.pod.config())
	dir := func(name string, mode, uid, gid uint32) agent.File {
		return agent.File{Path: name, Mode: unix.S_IFDIR | mode, UID: uid, GID: gid}
	}
	at := bundle(c.id)
	return c.pod.machine.Guest.Put(ctx, append([]agent.File{
		dir(c.upper, 0o711, 0, 0), dir(path.Join(c.upper, "upper"), 0o755, uid, gid), dir(path.Join(c.upper, "work"), 0o755, uid, gid),
		dir(at, 0o711, 0, 0), dir(path.Join(at, rootfsDir), 0o755, 0, 0),
	}, program...))
}

// takeFilter compiles the seccomp profile of a specification, if there is one, into a file
// for the bundle. What is left in the specification says that there has to be one.
func takeFilter(filters *seccomp.Cache, s *specs.Spec, bundle string) ([]agent.File, error) {
	profile := s.Linux.Seccomp
	filter, err := filters.Compile(profile)
	if err != nil || filter == nil {
		return nil, err
	}
	s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: profile.DefaultAction}
	return []agent.File{{Path: path.Join(bundle, seccomp.ProgramFile), Mode: unix.S_IFREG | 0o600, Content: filter.Bytes()}}, nil
}

func bundle(id string) string { return path.Join(agent.DirContainers, id) }

func (c *creation) createProcess(ctx context.Context) error {
	r := &c.request
	r.ID, r.Sandbox, r.Bundle = c.id, c.pod.id, bundle(c.id)
	r.Terminal, r.Stdin, r.StdinOnce = c.config.Terminal, c.config.Stdin, c.config.StdinOnce
	r.MaxLogLine = c.pod.driver.opts.MaxLogLine
	if c.config.LogPath != "" {
		r.LogPath = path.Join(agent.DirLogs, c.id)
	}
	// Only the end of a PID namespace's first process ends the others by itself.
	r.KillAll = c.config.PID != runtime.NamespaceContainer
	r.Cgroup = c.place.CgroupsPath
	if _, err := c.pod.machine.Monitor.Create(ctx, *r); err != nil {
		// It may have been made and only the answer lost.
		return errors.Join(err, c.ignoreDead(c.deleteProcess)(context.WithoutCancel(ctx)))
	}
	return nil
}

// mirrorLog lets the log arrive on the host from the first line.
func (c *creation) mirrorLog(ctx context.Context) error { return c.mirrorLogFrom(ctx, 0) }

// mirrorLogFrom leaves out so many bytes, which another log has.
func (c *creation) mirrorLogFrom(ctx context.Context, from int64) error {
	if c.config.LogPath == "" {
		return nil
	}
	if err := c.note(func(r *containerRecord) { r.Mirrored = true }); err != nil {
		return err
	}
	err := c.pod.driver.opts.Mirrors.Mirror(ctx, Mirror{
		ID: c.id, Name: c.name(), From: from, Sandbox: c.pod.id, Socket: c.pod.machine.Socket(vmm.PortMonitor), LogPath: c.config.LogPath,
	})
	if err != nil {
		return errors.Join(fmt.Errorf("mirror log: %w", err), c.deleteMirror(context.WithoutCancel(ctx)))
	}
	return nil
}
