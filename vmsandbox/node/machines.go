package node

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/cricket-cri/cricket/runtime/monitor"
	"github.com/cricket-cri/cricket/vmsandbox"
	"github.com/cricket-cri/cricket/vmsandbox/template"
	"github.com/cricket-cri/cricket/vmsandbox/vmm"
)

// machines are the node's, for its driver. They can be attached to and removed at once, and
// claimed when it is known how they run.
type machines struct{ *Node }

// Claim waits until it is known how machines run.
func (m machines) Claim(ctx context.Context) (*vmsandbox.Machine, error) {
	platform, err := m.Platform(ctx)
	if err != nil {
		return nil, err
	}
	vm, err := m.pool.Claim(ctx)
	if err != nil {
		return nil, err
	}
	return m.fresh(vm, platform), nil
}

func (m machines) fresh(vm *template.VM, p vmsandbox.Platform) *vmsandbox.Machine {
	claimed := machineOf(vm)
	claimed.Rootfs, claimed.Platform = m.rootfs, p
	return claimed
}

// Restore waits likewise.
func (m machines) Restore(ctx context.Context, s vmsandbox.SavedMachine) (*vmsandbox.Machine, error) {
	platform, err := m.Platform(ctx)
	if err != nil {
		return nil, err
	}
	if m.rootfs == vmsandbox.RootfsDirect {
		s.Disks = direct(s.Disks)
	}
	vm, err := m.pool.Restore(ctx, template.Saved(s))
	if err != nil {
		return nil, err
	}
	return m.fresh(vm, platform), nil
}

// direct has a machine read its images past the host's page cache.
func direct(make func(context.Context, string) (map[string]vmm.Disk, error)) func(context.Context, string) (map[string]vmm.Disk, error) {
	return func(ctx context.Context, machine string) (map[string]vmm.Disk, error) {
		disks, err := make(ctx, machine)
		for slot, d := range disks {
			d.Direct = d.ReadOnly
			disks[slot] = d
		}
		return disks, err
	}
}

// Platform waits until it is known how machines run.
func (m machines) Platform(ctx context.Context) (vmsandbox.Platform, error) {
	select {
	case <-m.ready:
	case <-ctx.Done():
		return vmsandbox.Platform{}, ctx.Err()
	}
	if m.err != nil {
		return vmsandbox.Platform{}, fmt.Errorf("virtual machines cannot run: %w: %w", errdefs.ErrUnavailable, m.err)
	}
	p := m.platform
	// The program may have been exchanged since.
	version, err := m.options.Hypervisor.Version(ctx)
	if err != nil {
		return p, err
	}
	p.Hypervisor = version
	return p, nil
}

// Attach finds a machine of a pod again.
func (m machines) Attach(ctx context.Context, id string) (*vmsandbox.Machine, error) {
	vm, err := m.found.Attach(ctx, id)
	if err != nil {
		return nil, err
	}
	return machineOf(vm), nil
}

// Remove removes a machine with all it has.
func (m machines) Remove(ctx context.Context, id string) error { return m.found.Remove(ctx, id) }

func machineOf(vm *template.VM) *vmsandbox.Machine {
	return &vmsandbox.Machine{
		Machine: vm.Machine, Guest: vm.Guest, Monitor: vm.Monitor, Open: vm.Session.OpenSpare, Ping: vm.Ping, Lost: vm.Session.Done(), Why: vm.Session.Err,
		NetNS: vm.NetNS, Volumes: vm.Volumes, Mounted: vm.Mounted, Release: vm.Close,
	}
}

// mirrors are those of the node's monitor.
type mirrors struct {
	client  *monitor.Client
	maxLine int
}

func (m mirrors) Mirror(ctx context.Context, r vmsandbox.Mirror) error {
	if r.Name != r.ID {
		info, err := m.client.Hello(ctx)
		if err != nil {
			return err
		}
		if !info.MirrorNames {
			return fmt.Errorf("cricket-monitor is of an earlier version, restart it: %w", errdefs.ErrFailedPrecondition)
		}
	}
	return m.client.Mirror(ctx, monitor.MirrorRequest{
		ID: r.ID, Name: r.Name, From: r.From, Sandbox: r.Sandbox, Socket: r.Socket, LogPath: r.LogPath, MaxLogLine: m.maxLine,
	})
}

func (m mirrors) Flush(ctx context.Context, id string) error     { return m.client.FlushLog(ctx, id) }
func (m mirrors) ReopenLog(ctx context.Context, id string) error { return m.client.ReopenLog(ctx, id) }
func (m mirrors) Delete(ctx context.Context, id string) error    { return m.client.Delete(ctx, id) }
