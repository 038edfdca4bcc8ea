package vmsandbox

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/coreos/go-systemd/v22/dbus"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/spec"
	"github.com/cricket-cri/cricket/sandbox"
)

// parentOf is the pod's cgroup on the host, in the form of the cgroup driver.
func (d *Driver) parentOf(c *sandbox.Config) string {
	if c.CgroupParent != "" {
		return c.CgroupParent
	}
	return d.naming.Own(c.ID)
}

// cgroupPath is where the pod's cgroup lies; Create has checked that it is valid.
func (p *pod) cgroupPath() string {
	path, _ := p.driver.naming.Path(p.driver.parentOf(p.config()))
	return path
}

// machineCgroup holds the hypervisor: in the pod's cgroup, as a container's would.
func (p *pod) machineCgroup() string {
	_, path, _ := p.driver.naming.Container(p.driver.parentOf(p.config()), p.id)
	return path
}

// enterCgroup moves the hypervisor into the pod's cgroup. The memory that it occupied
// while it waited stays charged to where that was.
func (p *pod) enterCgroup(ctx context.Context) error {
	pid := p.machine.Pid()
	if p.driver.opts.SystemdCgroup {
		return p.enterScope(ctx, pid)
	}
	tree, path := p.driver.cgroup, p.machineCgroup()
	if err := tree.Make(path); err != nil {
		return err
	}
	err := tree.Join(path, pid)
	if err == nil && p.config().CgroupParent == "" {
		err = p.limitHost(p.config().Limits())
	}
	if err != nil {
		return errors.Join(err, p.leaveCgroup(ctx))
	}
	return nil
}

// enterScope lets systemd make the cgroup and keep it as long as the process lives.
func (p *pod) enterScope(ctx context.Context, pid int) error {
	conn, err := dbus.NewSystemConnectionContext(ctx)
	if err != nil {
		return fmt.Errorf("connect to systemd: %w: %w", errdefs.ErrUnavailable, err)
	}
	defer conn.Close()
	result := make(chan string, 1)
	name := "cricket-" + p.id + ".scope"
	_, err = conn.StartTransientUnitContext(ctx, name, "replace", []dbus.Property{
		dbus.PropDescription("virtual machine of a pod"), dbus.PropSlice(p.driver.parentOf(p.config())),
		dbus.PropPids(uint32(pid)),
	}, result)
	if err != nil {
		return fmt.Errorf("start scope: %w", err)
	}
	select {
	case got := <-result:
		if got != "done" {
			return fmt.Errorf("start scope: systemd says %q: %w", got, errdefs.ErrInternal)
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// leaveCgroup removes the cgroup once the hypervisor is gone. It is idempotent. Scopes are
// removed by systemd with their last process.
func (p *pod) leaveCgroup(context.Context) error {
	if p.driver.opts.SystemdCgroup {
		return nil
	}
	tree := p.driver.cgroup
	path := p.machineCgroup()
	if p.config().CgroupParent == "" {
		path = p.cgroupPath()
	}
	if tree.Exists(path) {
		if err := tree.Kill(path); err != nil {
			return err
		}
		if err := tree.Remove(path); err != nil {
			return err
		}
	}
	tree.Prune(p.cgroupPath())
	return nil
}

// limitHost limits the pod's cgroup where it is the driver's own: processor time only,
// since the guest limits memory and processes itself, and the machine's size bounds both.
func (p *pod) limitHost(r *runtime.Resources) error {
	if r == nil {
		return nil
	}
	time := runtime.Resources{CPUShares: r.CPUShares, CPUQuota: r.CPUQuota, CPUPeriod: r.CPUPeriod}
	return p.driver.cgroup.Update(p.cgroupPath(), spec.Resources(&time, p.driver.cgroup.Unified()))
}
