package vmsandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/flow"
	"github.com/cricket-cri/cricket/runtime/monitor"
	"github.com/cricket-cri/cricket/sandbox"
	"github.com/cricket-cri/cricket/sandbox/cni"
	"github.com/cricket-cri/cricket/vmsandbox/agent"
	"github.com/cricket-cri/cricket/vmsandbox/network"
)

// birth is a pod on its way.
type birth struct {
	*pod
	network agent.Network
	// told is closed when the guest has been told who it is, with toldErr as the outcome:
	// that takes as long as the plugins of the network do, and needs nothing of theirs.
	told    chan struct{}
	toldErr error
	stop    context.CancelFunc // what tells it
	// from is what a restored pod goes on from, nil for others.
	from *restoration
}

// Create makes a sandbox that is networked and ready, or leaves nothing behind.
func (d *Driver) Create(ctx context.Context, c sandbox.Config) (sandbox.Sandbox, error) {
	if err := d.checkPod(&c); err != nil {
		return nil, fmt.Errorf("check sandbox: %w", err)
	}
	b := &birth{pod: d.newPod(podState{Config: c, Boot: d.boot}), told: make(chan struct{})}
	return b.run(ctx, "create virtual sandbox", flow.Step{Name: "claim machine", Do: b.claimMachine, Undo: b.removeMachine})
}

// run gives the pod a machine, and the machine what it needs to be the pod; more are done
// when it has that.
func (b *birth) run(ctx context.Context, name string, machine flow.Step, more ...flow.Step) (sandbox.Sandbox, error) {
	steps := []flow.Step{
		{
			Name: "claim name",
			Do:   func(context.Context) error { return b.claimName() },
			Undo: func(context.Context) error { return os.RemoveAll(b.dir()) },
		},
		machine,
		{Name: "enter cgroup", Do: b.alive(b.enterCgroup), Undo: b.undoCgroup},
		{
			Name: "introduce guest",
			Do:   func(ctx context.Context) error { b.beginIntroduction(ctx); return nil },
			Undo: func(context.Context) error { b.stop(); <-b.told; return nil },
		},
		{Name: "connect network", Do: b.alive(b.addNetwork), Undo: b.deleteNetwork},
		{Name: "connect guest", Do: b.alive(b.connectGuest)},
	}
	steps = append(steps, more...)
	steps = append(steps, flow.Step{Name: "write state", Do: func(context.Context) error { return b.change(func(*podState) {}) }})
	if err := flow.Run(ctx, name, steps...); err != nil {
		return nil, err
	}
	b.driver.setLive(b.pod)
	b.watch()
	return b.pod, nil
}

// lastBreath is how long a machine may take to be dead after parts of it are gone.
const lastBreath = 200 * time.Millisecond

// alive is f, whose failure is that of the machine if that has ended meanwhile: nobody
// watches it yet, and what is left of it fails in ways that say nothing, such as a network
// device that is gone.
func (b *birth) alive(f func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		err := f(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-b.machine.Done():
			return fmt.Errorf("virtual machine has ended: %w: %w", errdefs.ErrUnavailable, err)
		case <-time.After(lastBreath):
			return err
		}
	}
}

// claimName records the intent: from here on Sweep knows what to undo.
func (p *pod) claimName() error {
	if err := os.Mkdir(p.dir(), 0o700); err != nil {
		if errors.Is(err, os.ErrExist) {
			return fmt.Errorf("make sandbox directory: %w: %w", errdefs.ErrAlreadyExists, err)
		}
		return fmt.Errorf("make sandbox directory: %w", err)
	}
	err := os.Mkdir(p.dir(containersDir), 0o700)
	if err == nil {
		err = p.change(func(*podState) {})
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(p.dir()))
	}
	return nil
}

// claimMachine records whose machine it is at once: unclaimed ones are removed when a
// daemon starts.
func (p *pod) claimMachine(ctx context.Context) error {
	m, err := p.driver.opts.Machines.Claim(ctx)
	if err != nil {
		return err
	}
	return p.takeMachine(ctx, m, VolumeOptions{}, func(s *podState) { s.Writable = slices.Clone(m.Mounted) })
}

// takeMachine makes a machine the pod's own; v and more are what else is known of it.
func (p *pod) takeMachine(ctx context.Context, m *Machine, v VolumeOptions, more func(*podState)) error {
	p.machine = m
	err := p.change(func(s *podState) {
		s.Machine, s.Dir, s.VolumesDir, s.NetNS = m.ID(), m.Dir(), m.Volumes, m.NetNS
		s.Platform, s.Rootfs = m.Platform, m.Rootfs
		more(s)
	})
	if err == nil {
		v.Dir = m.Volumes
		err = p.openVolumesOf(v)
	}
	if err != nil {
		return errors.Join(err, p.removeMachine(context.WithoutCancel(ctx)))
	}
	return nil
}

// openVolumes makes the pod's volumes, or finds those of an earlier daemon again.
func (p *pod) openVolumes() (err error) {
	s := p.snapshot()
	return p.openVolumesOf(VolumeOptions{Dir: s.VolumesDir, State: s.Volumes})
}

func (p *pod) openVolumesOf(o VolumeOptions) error {
	o.Disk = p.volumeDisk
	if p.machine != nil {
		o.Guest = p.machine.Guest
	}
	early := false
	o.Changed = func() {
		p.keeping.Lock()
		defer p.keeping.Unlock()
		if p.volumes == nil { // they are still being opened
			early = true
			return
		}
		p.keepFollowed()
	}
	v, err := p.driver.opts.Volumes(o)
	if err != nil {
		return err
	}
	p.keeping.Lock()
	defer p.keeping.Unlock()
	if p.volumes = v; early {
		p.keepFollowed()
	}
	return nil
}

// keepFollowed records what volumes have become by themselves. The next who records them
// does it too.
func (p *pod) keepFollowed() {
	if err := p.recordVolumes(); err != nil {
		p.driver.opts.Log.Warn("state of volumes is not recorded", "sandbox", p.id, "error", err)
	}
}

func (b *birth) undoCgroup(ctx context.Context) error {
	// Not before its process is gone; removing the machine again does no harm.
	return errors.Join(b.removeMachine(ctx), b.leaveCgroup(ctx))
}

func (b *birth) beginIntroduction(ctx context.Context) {
	ctx, b.stop = context.WithCancel(ctx)
	go func() {
		defer b.stop()
		b.introduce(ctx)
	}()
}

// introduce tells the guest all that does not depend on the network.
func (b *birth) introduce(ctx context.Context) {
	defer close(b.told)
	b.toldErr = b.guest(ctx, longBudget, func(ctx context.Context) error {
		g, c := b.machine.Guest, b.config()
		info, err := b.identify(ctx)
		if err != nil {
			return err
		}
		if err := g.Sysctl(ctx, sysctls(c)); err != nil {
			return fmt.Errorf("set sysctls: %w", err)
		}
		if err := b.putFiles(ctx); err != nil {
			return err
		}
		if b.from != nil { // it has all else since it was saved
			return b.change(func(s *podState) {
				s.Guest = info
				s.Guest.MemoryBytes -= min(info.MemoryBytes, uint64(s.Added)) // which are counted apart
			})
		}
		if err := b.mountShared(ctx); err != nil {
			return err
		}
		holder, err := b.holdNamespaces(ctx)
		if err != nil {
			return err
		}
		return b.change(func(s *podState) { s.Guest, s.Holder = info, holder })
	})
}

// holdNamespaces makes the namespaces that the pod has beside those of the guest itself:
// one of processes, if its containers share one, and with a user namespace those that have
// to belong to it. The network stays the guest's.
func (p *pod) holdNamespaces(ctx context.Context) (pid int, err error) {
	c := p.config()
	r := monitor.HoldRequest{ID: p.id}
	if c.UserNS != nil {
		r.Namespaces = append(r.Namespaces, specs.UserNamespace, specs.IPCNamespace, specs.UTSNamespace)
		r.UIDMappings, r.GIDMappings = c.UserNS.UIDs, c.UserNS.GIDs
	}
	if c.PID == runtime.NamespacePod {
		r.Namespaces = append(r.Namespaces, specs.PIDNamespace)
	}
	if len(r.Namespaces) == 0 {
		return 0, nil
	}
	if pid, err = p.machine.Monitor.Hold(ctx, r); err != nil {
		return 0, fmt.Errorf("hold namespaces: %w", err)
	}
	if pid <= 0 {
		return 0, fmt.Errorf("hold namespaces: guest answers process %d: %w", pid, errdefs.ErrInternal)
	}
	return pid, nil
}

func (b *birth) addNetwork(ctx context.Context) error {
	ips, err := b.driver.opts.Network.Add(ctx, b.networkRequest())
	if err != nil {
		return err
	}
	if b.network, err = b.driver.opts.cross(b.state.NetNS, cni.Interface); err == nil {
		err = b.change(func(s *podState) { s.IPs = ips })
	}
	if err != nil {
		return errors.Join(err, b.deleteNetwork(context.WithoutCancel(ctx)))
	}
	return nil
}

func crossNetwork(path, name string) (agent.Network, error) { return network.Connect(path, name) }

func (p *pod) networkRequest() cni.Pod {
	c := p.config()
	r := cni.Pod{
		ID: c.ID, NetNS: p.state.NetNS, Name: c.Name, Namespace: c.Namespace, UID: c.UID,
		Annotations: c.Annotations, CgroupPath: p.cgroupPath(),
	}
	for _, m := range c.PortMappings {
		r.Ports = append(r.Ports, cni.Port{
			HostPort: m.HostPort, ContainerPort: m.ContainerPort, Protocol: m.Protocol, HostIP: m.HostIP,
		})
	}
	if c.DNS != nil {
		r.DNS = &cni.DNS{Servers: c.DNS.Servers, Searches: c.DNS.Searches, Options: c.DNS.Options}
	}
	return r
}

// deleteNetwork is idempotent; the machine need not live.
func (p *pod) deleteNetwork(ctx context.Context) error { return p.driver.opts.Network.Del(ctx, p.id) }

// connectGuest waits until the guest knows who it is and gives it its network.
func (b *birth) connectGuest(ctx context.Context) error {
	select {
	case <-b.told:
	case <-ctx.Done():
		return ctx.Err()
	}
	if b.toldErr != nil {
		return b.toldErr
	}
	return b.guest(ctx, callBudget, func(ctx context.Context) error {
		if err := b.machine.Guest.Connect(ctx, b.network); err != nil {
			return fmt.Errorf("configure network of guest: %w", err)
		}
		return nil
	})
}
