package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/flow"
	"github.com/cricket-cri/cricket/runtime/monitor"
	"github.com/cricket-cri/cricket/runtime/rmtree"
	"github.com/cricket-cri/cricket/runtime/spec"
)

// rootfsDir is the root file system's mount point in the bundle.
const rootfsDir = "rootfs"

// overlaySource is what mount tables and df(1) show as the device of a root file system:
// programs look for the name that other runtimes give.
const overlaySource = "source=overlay"

// creation is a container on its way.
type creation struct {
	*container
	config  runtime.Config
	request monitor.CreateRequest
	place   spec.Place
	// target keeps the PID namespace that is joined; nil for a container that joins none.
	target *os.File
}

// NewContainer makes a container that is created and not yet started, or leaves
// nothing behind.
func (p *pod) NewContainer(ctx context.Context, config runtime.Config) (runtime.Container, error) {
	if config.ID == "" || config.ID != cleanName(config.ID) {
		return nil, fmt.Errorf("container id %q: %w", config.ID, errdefs.ErrInvalidArgument)
	}
	if !p.Status().Ready {
		return nil, fmt.Errorf("sandbox is not ready: %w", errdefs.ErrFailedPrecondition)
	}
	c := &creation{container: p.container(config.ID), config: config}
	defer func() {
		if c.target != nil {
			c.target.Close()
		}
	}()
	err := flow.Run(ctx, "create container",
		flow.Step{
			Name: "claim name",
			Do:   func(context.Context) error { return c.claim() },
			Undo: func(context.Context) error { return c.unclaim() },
		},
		flow.Step{
			Name: "make directories",
			Do:   func(context.Context) error { return c.makeDirs() },
			Undo: func(context.Context) error { return c.removeDirs() },
		},
		flow.Step{Name: "mount layers", Do: c.mountLayers},
		flow.Step{Name: "prepare mounts", Do: func(context.Context) error { return c.prepareMounts() }},
		flow.Step{Name: "find place", Do: c.findPlace},
		flow.Step{Name: "write bundle", Do: func(context.Context) error { return c.writeBundle() }},
		flow.Step{
			Name: "create process",
			Do:   c.createProcess,
			Undo: func(ctx context.Context) error { return c.monitor().Delete(ctx, c.id) },
		})
	if err != nil {
		return nil, err
	}
	return c.container, nil
}

// claim lets the sandbox know of the container before there is anything of it.
func (c *creation) claim() error {
	f, err := os.OpenFile(c.pod.dir(containersDir, c.id), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("claim container name: %w: %w", errdefs.ErrAlreadyExists, err)
	}
	if err != nil {
		return fmt.Errorf("claim container name: %w", err)
	}
	return f.Close()
}

func (c *creation) unclaim() error {
	return ignoreMissing(os.Remove(c.pod.dir(containersDir, c.id)))
}

// makeDirs makes the bundle and the writable layer, which belongs to the pod's root.
func (c *creation) makeDirs() (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("make directories: %w", err), c.removeDirs())
		}
	}()
	if err := c.pod.driver.makeLayerDir(c.id, c.pod.id()); err != nil {
		return err
	}
	bundle := c.pod.driver.bundle(c.id)
	uid, gid := c.pod.state.Config.root()
	for _, dir := range []string{c.upper(), c.work()} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		if err := os.Chown(dir, uid, gid); err != nil {
			return err
		}
	}
	if err := c.pod.makePrivateDir(bundle); err != nil {
		return err
	}
	return os.Mkdir(filepath.Join(bundle, rootfsDir), 0o755)
}

func (c *creation) removeDirs() error {
	return errors.Join(rmtree.Remove(c.pod.driver.bundle(c.id)), c.removeLayer())
}

// mountLayers says what the monitor has to stack: the layers themselves are mounted
// once for all containers and stay.
func (c *creation) mountLayers(ctx context.Context) error {
	lower, err := c.pod.driver.opts.Layers.Mount(ctx, c.config.Image)
	if err != nil {
		return err
	}
	userNS := c.pod.userNS()
	c.request.Rootfs = monitor.Overlay{
		Target: rootfsDir, Lower: lower, Upper: c.upper(), Work: c.work(), UserNS: userNS,
		Options: []string{overlaySource},
	}
	c.place.ImageMounts = map[string]string{}
	for i, m := range c.config.Mounts {
		if len(m.Image) == 0 {
			continue
		}
		lower, err := c.pod.driver.opts.Layers.Mount(ctx, m.Image)
		if err != nil {
			return err
		}
		target := path.Join("volumes", strconv.Itoa(i))
		c.request.Overlays = append(c.request.Overlays, monitor.Overlay{
			Target: target, Lower: lower, UserNS: userNS, SubPath: m.SubPath,
			Options: []string{overlaySource},
		})
		c.place.ImageMounts[path.Clean(m.Destination)] = filepath.Join(c.pod.driver.bundle(c.id), target)
	}
	return nil
}

// userNS is the path of the pod's user namespace, empty if it has none.
func (p *pod) userNS() string {
	if p.state.Config.UserNS == nil {
		return ""
	}
	return p.namespaces().Path(specs.UserNamespace)
}

// findPlace describes the pod and the host to the builder of the specification.
func (c *creation) findPlace(ctx context.Context) error {
	k, pc := c.pod.driver, &c.pod.state.Config
	p := &c.place
	p.Rootfs = rootfsDir
	p.Mounts = c.pod.mounts()
	p.HostNetwork = pc.Network == runtime.NamespaceNode
	p.HostIPC = pc.IPC == runtime.NamespaceNode
	p.HostPID = c.config.PID == runtime.NamespaceNode
	p.CgroupV2 = k.cgroup.Unified()
	p.CgroupMountOptions = k.cgroupMountOptions
	p.HostCapabilities = k.capabilities
	p.OOMScoreAdj = k.oomScoreAdj
	p.Rlimits = k.opts.Rlimits
	if pc.UserNS != nil {
		p.UIDMappings, p.GIDMappings = pc.UserNS.UIDs, pc.UserNS.GIDs
	}
	var err error
	if p.CgroupsPath, c.request.Cgroup, err = k.naming.Container(c.pod.parent(), c.id); err != nil {
		return err
	}
	if err := c.findNamespaces(ctx); err != nil {
		return err
	}
	return c.findDevices()
}

func (c *creation) findNamespaces(ctx context.Context) error {
	pins, pc := c.pod.namespaces(), &c.pod.state.Config
	join := func(t specs.LinuxNamespaceType, path string) {
		c.place.Namespaces = append(c.place.Namespaces, specs.LinuxNamespace{Type: t, Path: path})
	}
	if pc.UserNS != nil {
		join(specs.UserNamespace, pins.Path(specs.UserNamespace))
	}
	for _, t := range pc.ownTypes() {
		join(t, pins.Path(t))
	}
	switch c.config.PID {
	case runtime.NamespacePod:
		switch pc.PID {
		case runtime.NamespacePod:
			join(specs.PIDNamespace, pins.Path(specs.PIDNamespace))
		case runtime.NamespaceNode:
			c.place.HostPID = true
		}
	case runtime.NamespaceTarget:
		var err error
		if c.target, err = c.pod.openTargetPID(ctx, c.config.PIDTarget); err != nil {
			return err
		}
		join(specs.PIDNamespace, fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), c.target.Fd()))
	}
	return nil
}

// openTargetPID opens the PID namespace of a running container of the same sandbox. The
// container is asked a second time when it is open: its process may have ended in between,
// and its number be another's.
func (p *pod) openTargetPID(ctx context.Context, id string) (*os.File, error) {
	pid, err := p.runningPID(ctx, id)
	if err != nil {
		return nil, err
	}
	ns, err := os.Open("/proc/" + strconv.Itoa(pid) + "/ns/pid")
	if err != nil {
		return nil, fmt.Errorf("open PID namespace of target container %s: %w: %w", id, errdefs.ErrFailedPrecondition, err)
	}
	if _, err := p.runningPID(ctx, id); err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	return ns, nil
}

// runningPID is the process of a container that runs.
func (p *pod) runningPID(ctx context.Context, id string) (int, error) {
	target, err := p.Container(ctx, id)
	if err != nil {
		return 0, fmt.Errorf("find target container: %w", err)
	}
	state, err := target.State(ctx)
	if err != nil {
		return 0, fmt.Errorf("find target container: %w", err)
	}
	if state.Phase != runtime.Running || state.Pid == 0 {
		return 0, fmt.Errorf("target container %s is not running: %w", id, errdefs.ErrFailedPrecondition)
	}
	return state.Pid, nil
}

func (c *creation) findDevices() (err error) {
	c.place.Devices = map[string][]specs.LinuxDevice{}
	for _, d := range c.config.Devices {
		if c.place.Devices[d.HostPath], err = spec.ReadDevices(d.HostPath); err != nil {
			return err
		}
	}
	if c.config.Privileged {
		c.place.HostDevices, err = spec.ReadDevices("/dev")
	}
	return err
}

func (c *creation) writeBundle() error {
	s, err := spec.Build(c.config, c.place)
	if err != nil {
		return err
	}
	if err := checkAdjusted(s, c.place.CgroupsPath); err != nil {
		return err
	}
	// Only the end of a PID namespace's first process ends the others by itself.
	c.request.KillAll = !slices.Contains(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.PIDNamespace})
	for name, part := range map[string]any{"config.json": s, processFile: s.Process} {
		content, err := json.Marshal(part)
		if err != nil {
			return fmt.Errorf("encode %s: %w", name, err)
		}
		// The environment may hold secrets.
		if err := os.WriteFile(filepath.Join(c.pod.driver.bundle(c.id), name), content, 0o600); err != nil {
			return fmt.Errorf("write bundle: %w", err)
		}
	}
	return nil
}

func (c *creation) createProcess(ctx context.Context) error {
	r, o := &c.request, &c.pod.driver.opts
	r.Sandbox = c.pod.id()
	r.ID, r.Bundle, r.Runtime = c.id, c.pod.driver.bundle(c.id), o.Runtime
	r.Terminal, r.Stdin, r.StdinOnce = c.config.Terminal, c.config.Stdin, c.config.StdinOnce
	r.LogPath, r.MaxLogLine = c.config.LogPath, o.MaxLogLine
	_, err := c.monitor().Create(ctx, *r)
	if err != nil {
		// It may have been made and only the answer lost.
		err = errors.Join(err, c.monitor().Delete(context.WithoutCancel(ctx), c.id), c.removeCgroup())
	}
	return err
}
