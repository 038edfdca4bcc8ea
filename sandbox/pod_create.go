package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/flow"
	"github.com/cricket-cri/cricket/runtime/monitor"
	"github.com/cricket-cri/cricket/runtime/rmtree"
	"github.com/cricket-cri/cricket/sandbox/cni"
	"github.com/cricket-cri/cricket/sandbox/netns"
)

// Create makes a sandbox that is networked and ready, or leaves nothing behind.
func (k *Kernel) Create(ctx context.Context, c Config) (Sandbox, error) {
	p := k.newPod(podState{Config: c, Boot: k.boot})
	if err := p.check(); err != nil {
		return nil, fmt.Errorf("check sandbox: %w", err)
	}
	err := flow.Run(ctx, "create sandbox",
		flow.Step{
			Name: "make directory",
			Do:   func(context.Context) error { return p.makeDir() },
			Undo: func(context.Context) error { return rmtree.Remove(p.dir()) },
		},
		flow.Step{
			Name: "make cgroup",
			Do:   p.makeCgroup,
			Undo: p.removeCgroup,
		},
		flow.Step{
			Name: "make namespaces",
			Do:   p.makeNamespaces,
			Undo: p.releaseNamespaces,
		},
		flow.Step{
			Name: "write files",
			Do:   func(context.Context) error { return p.writeFiles() },
		},
		flow.Step{
			Name: "mount shared memory",
			Do:   func(context.Context) error { return p.mountShm() },
			Undo: func(context.Context) error { return p.unmountShm() },
		},
		flow.Step{
			Name: "connect network",
			Do:   p.connect,
			Undo: p.disconnect,
		},
		flow.Step{
			Name: "write state",
			Do:   func(context.Context) error { return p.writeState() },
		})
	if err != nil {
		p.stopWatching()
		return nil, err
	}
	return p, nil
}

// check refuses what cannot be before anything is made.
func (p *pod) check() error {
	c := &p.state.Config
	if c.ID == "" || c.ID != cleanName(c.ID) {
		return fmt.Errorf("id %q: %w", c.ID, errdefs.ErrInvalidArgument)
	}
	if !slices.Contains([]runtime.NamespaceMode{runtime.NamespacePod, runtime.NamespaceNode}, c.Network) {
		return fmt.Errorf("network namespace mode %q: %w", c.Network, errdefs.ErrInvalidArgument)
	}
	if !slices.Contains([]runtime.NamespaceMode{runtime.NamespacePod, runtime.NamespaceNode}, c.IPC) {
		return fmt.Errorf("IPC namespace mode %q: %w", c.IPC, errdefs.ErrInvalidArgument)
	}
	if !slices.Contains([]runtime.NamespaceMode{runtime.NamespacePod, runtime.NamespaceContainer, runtime.NamespaceNode}, c.PID) {
		return fmt.Errorf("PID namespace mode %q: %w", c.PID, errdefs.ErrInvalidArgument)
	}
	if c.UserNS != nil && (len(c.UserNS.UIDs) == 0 || len(c.UserNS.GIDs) == 0) {
		return fmt.Errorf("user namespace without mappings: %w", errdefs.ErrInvalidArgument)
	}
	if _, err := p.driver.naming.Path(p.parent()); err != nil {
		return err
	}
	return netns.CheckSysctls(c.Sysctls, c.ownTypes())
}

// makeDir records the intent: from here on Sweep knows what to undo.
func (p *pod) makeDir() error {
	if err := p.makePrivateDir(p.dir()); err != nil {
		if errors.Is(err, os.ErrExist) {
			return fmt.Errorf("make sandbox directory: %w: %w", errdefs.ErrAlreadyExists, err)
		}
		return fmt.Errorf("make sandbox directory: %w", err)
	}
	err := os.Mkdir(p.dir(containersDir), 0o700)
	if err == nil {
		err = p.writeState()
	}
	if err != nil {
		return errors.Join(fmt.Errorf("fill sandbox directory: %w", err), rmtree.Remove(p.dir()))
	}
	return nil
}

// makePrivateDir makes a directory that root of the host and of the pod's user namespace
// get through, and no other user of the host: it holds the pod's shared memory and the
// pipes of its containers, which belong to the pod's own ids.
func (p *pod) makePrivateDir(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	_, gid := p.state.Config.root()
	// The change of the group first: it would take bits of the mode away.
	if err := errors.Join(os.Chown(dir, 0, gid), os.Chmod(dir, 0o710)); err != nil {
		return errors.Join(err, os.Remove(dir))
	}
	return nil
}

// makeCgroup makes the pod's cgroup if nobody else has. Slices are systemd's to make,
// which it does with the first container.
func (p *pod) makeCgroup(ctx context.Context) error {
	path := p.cgroupPath()
	if p.driver.opts.SystemdCgroup || path == "/" {
		return nil
	}
	err := p.driver.cgroup.Make(path)
	if err == nil && p.state.Config.CgroupParent == "" {
		err = p.driver.limit(path, p.state.Config.Limits())
	}
	if err != nil {
		return errors.Join(err, p.removeCgroup(context.WithoutCancel(ctx)))
	}
	return nil
}

// removeCgroup removes what makeCgroup made; it is idempotent.
func (p *pod) removeCgroup(ctx context.Context) error {
	own := p.state.Config.CgroupParent == ""
	switch {
	case own && p.driver.opts.SystemdCgroup:
		return p.stopSlice(ctx)
	case own:
		if err := p.driver.cgroup.Remove(p.cgroupPath()); err != nil {
			return err
		}
	}
	p.driver.cgroup.Prune(p.cgroupPath())
	return nil
}

// stopSlice takes the pod's own slice away, which systemd made for the first container
// and keeps. Pods of a kubelet lie in slices of the kubelet's.
func (p *pod) stopSlice(ctx context.Context) error {
	if !p.driver.cgroup.Exists(p.cgroupPath()) {
		return nil
	}
	out, err := exec.CommandContext(ctx, "systemctl", "stop", p.parent()).CombinedOutput()
	if err != nil && p.driver.cgroup.Exists(p.cgroupPath()) {
		return fmt.Errorf("stop slice: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// makeNamespaces makes and pins the pod's namespaces. The types that a thread cannot
// make come from a process of the monitor, in which case all of them do: those of a
// pod with a user namespace must belong to it.
func (p *pod) makeNamespaces(ctx context.Context) error {
	c := &p.state.Config
	setup := netns.Setup{Types: c.ownTypes(), Hostname: c.Hostname, Sysctls: c.Sysctls}
	setup.RootUID, setup.RootGID = c.root()
	if c.Network == runtime.NamespacePod {
		setup.Sysctls = netns.AddDefaultSysctls(c.Sysctls, c.UserNS != nil)
	}
	held := c.heldTypes()
	if len(held) == 0 {
		return p.namespaces().Make(setup)
	}
	err := p.holdNamespaces(ctx, setup, held)
	if err != nil {
		return errors.Join(err, p.releaseNamespaces(context.WithoutCancel(ctx)))
	}
	return nil
}

func (p *pod) holdNamespaces(ctx context.Context, setup netns.Setup, held []specs.LinuxNamespaceType) error {
	c := &p.state.Config
	request := monitor.HoldRequest{ID: p.id(), Namespaces: held}
	if c.UserNS != nil {
		request.Namespaces = slices.Concat(held, setup.Types)
		request.UIDMappings, request.GIDMappings = c.UserNS.UIDs, c.UserNS.GIDs
	}
	pid, err := p.driver.opts.Monitor.Hold(ctx, request)
	if err != nil {
		return fmt.Errorf("hold namespaces: %w", err)
	}
	if c.UserNS != nil {
		err = p.namespaces().Adopt(pid, setup, held...)
	} else if err = p.namespaces().Make(setup); err == nil {
		err = p.namespaces().Pin(pid, held...)
	}
	if err != nil {
		return err
	}
	if c.PID != runtime.NamespacePod {
		// The pins keep everything alive; only a PID namespace needs its process.
		return p.driver.opts.Monitor.Release(ctx, p.id())
	}
	return p.watchInit(pid)
}

// watchInit closes done when the process dies that the PID namespace depends on.
func (p *pod) watchInit(pid int) error {
	start, err := startTime(pid)
	if err != nil {
		return err
	}
	p.state.InitPid, p.state.InitStart = pid, start
	return p.watchRecordedInit()
}

func (p *pod) watchRecordedInit() (err error) {
	p.init, err = openProcess(p.state.InitPid, p.state.InitStart)
	if err != nil {
		return err
	}
	init := p.init
	p.watch.Go(func() {
		if init.wait() {
			p.end()
		}
	})
	return nil
}

func (p *pod) stopWatching() {
	if p.init != nil {
		p.init.close()
		p.watch.Wait()
	}
}

// releaseNamespaces is idempotent.
func (p *pod) releaseNamespaces(ctx context.Context) error {
	p.stopWatching()
	var err error
	if len(p.state.Config.heldTypes()) > 0 {
		err = p.driver.opts.Monitor.Release(ctx, p.id())
	}
	return errors.Join(err, p.namespaces().Unpin())
}

func (p *pod) connect(ctx context.Context) (err error) {
	c := &p.state.Config
	if c.Network != runtime.NamespacePod {
		return nil
	}
	request := cni.Pod{
		ID: c.ID, NetNS: p.namespaces().Path(specs.NetworkNamespace),
		Name: c.Name, Namespace: c.Namespace, UID: c.UID,
		Annotations: c.Annotations, CgroupPath: p.cgroupPath(),
	}
	for _, m := range c.PortMappings {
		request.Ports = append(request.Ports, cni.Port{
			HostPort: m.HostPort, ContainerPort: m.ContainerPort, Protocol: m.Protocol, HostIP: m.HostIP,
		})
	}
	if c.DNS != nil {
		request.DNS = &cni.DNS{Servers: c.DNS.Servers, Searches: c.DNS.Searches, Options: c.DNS.Options}
	}
	p.state.IPs, err = p.driver.opts.Network.Add(ctx, request)
	return err
}

// disconnect is idempotent, and asks for any pod: the ledger knows who is connected.
func (p *pod) disconnect(ctx context.Context) error {
	return p.driver.opts.Network.Del(ctx, p.id())
}
