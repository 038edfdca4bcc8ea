package vmsandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/sandbox"
)

// Attach finds a sandbox again after a restart of the daemon. With ErrGone the sandbox
// beside it still removes what is left. What was found once, to be swept for instance, is
// found again as it is: a machine's channel has one user.
func (d *Driver) Attach(ctx context.Context, r sandbox.Record) (sandbox.Sandbox, error) {
	if p := d.livePod(r.ID); p != nil {
		if _, why := p.ended(); why != nil {
			return p, fmt.Errorf("attach to sandbox: %w: %w", sandbox.ErrGone, why)
		}
		return p, nil
	}
	p, err := d.attach(ctx, r)
	if p == nil {
		return nil, err
	}
	return p, err
}

// attachTries is how often a machine that lives is tried: on a node that starts many at
// once an answer may take its time.
const attachTries = 3

func (d *Driver) attach(ctx context.Context, r sandbox.Record) (*pod, error) {
	var s podState
	if len(r.Data) > 0 {
		if err := json.Unmarshal(r.Data, &s); err != nil {
			return d.whatIsLeft(r.ID), fmt.Errorf("read sandbox record: %w: %w", sandbox.ErrGone, err)
		}
	}
	// What lies in the pod's directory is newer, or all there is of a half-made sandbox.
	if onDisk, err := d.readState(r.ID); err == nil {
		s = onDisk
	}
	if s.Config.ID != r.ID || s.Boot != d.boot || s.Machine == "" {
		return d.whatIsLeft(r.ID), fmt.Errorf("attach to sandbox: %w", sandbox.ErrGone)
	}
	p := d.newPod(s)
	m, err := d.opts.Machines.Attach(ctx, s.Machine)
	if err == nil {
		p.machine = m
		if err = p.openVolumes(); err != nil && m.Release != nil {
			_ = m.Release()
		}
	}
	if err != nil && !errdefs.IsNotFound(err) && d.failed(r.ID) < attachTries {
		return nil, fmt.Errorf("attach to sandbox: %w", err)
	}
	if err != nil {
		return d.whatIsLeft(r.ID), fmt.Errorf("attach to sandbox: %w: %w", sandbox.ErrGone, err)
	}
	d.setLive(p)
	p.watch()
	if err := p.thaw(ctx); err != nil {
		p.fail(fmt.Errorf("let containers go on that an earlier daemon froze: %w", err))
		return p, fmt.Errorf("attach to sandbox: %w: %w", sandbox.ErrGone, err)
	}
	return p, nil
}

// failed counts attempts to attach.
func (d *Driver) failed(id string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tries[id]++
	return d.tries[id]
}

func (d *Driver) readState(id string) (s podState, err error) {
	if err := readJSON(d.podDir(id, stateFile), &s); err != nil {
		return s, err
	}
	if s.Config.ID != id {
		return s, fmt.Errorf("decode state: it is another's: %w", errdefs.ErrInternal)
	}
	return s, nil
}

// errGone is why a pod ended that is only known by what is left of it.
var errGone = fmt.Errorf("virtual machine is gone: %w", errdefs.ErrNotFound)

// whatIsLeft is a sandbox without a machine, as far as its directory tells.
func (d *Driver) whatIsLeft(id string) *pod {
	s, err := d.readState(id)
	if err != nil {
		s = podState{Config: sandbox.Config{
			ID: id, Network: runtime.NamespacePod, IPC: runtime.NamespacePod, PID: runtime.NamespaceContainer,
		}}
	}
	p := d.newPod(s)
	p.end(errGone)
	if s.Machine != "" {
		if err := p.openVolumes(); err != nil {
			d.opts.Log.Warn("volumes of a machine that is gone cannot be read", "sandbox", id, "error", err)
		}
	}
	return p
}

// List names every sandbox that has left a directory, which is made before anything else
// and removed after it.
func (d *Driver) List(context.Context) ([]string, error) { return readNames(d.podDir("")) }

// Sweep removes the traces of a sandbox that no record knows.
func (d *Driver) Sweep(ctx context.Context, id string) error {
	if id == "" || id != cleanName(id) {
		return fmt.Errorf("sweep sandbox %q: %w", id, errdefs.ErrInvalidArgument)
	}
	if p := d.livePod(id); p != nil {
		return p.Remove(ctx)
	}
	return d.whatIsLeft(id).Remove(ctx)
}

// Containers says of every container that has left a trace in which sandbox it is.
func (d *Driver) Containers(context.Context) (map[string]string, error) {
	pods, err := readNames(d.podDir(""))
	if err != nil {
		return nil, err
	}
	all := map[string]string{}
	for _, pod := range pods {
		ids, err := readNames(d.podDir(pod, containersDir))
		if err != nil {
			return nil, err
		}
		for _, id := range ids {
			all[id] = pod
		}
	}
	return all, nil
}

// SweepContainer removes the traces of a container that no record knows from a sandbox
// that goes on.
func (d *Driver) SweepContainer(ctx context.Context, pod, id string) error {
	for _, name := range []string{pod, id} {
		if name == "" || name != cleanName(name) {
			return fmt.Errorf("sweep container %q of %q: %w", id, pod, errdefs.ErrInvalidArgument)
		}
	}
	p, err := d.find(ctx, pod)
	if err != nil {
		return err
	}
	return p.container(id).Remove(ctx)
}

// find is a pod that goes on, or what is left of it.
func (d *Driver) find(ctx context.Context, id string) (*pod, error) {
	if p := d.livePod(id); p != nil {
		return p, nil
	}
	p, err := d.attach(ctx, sandbox.Record{ID: id})
	if p == nil {
		return nil, err
	}
	return p, nil // what is left, if it is gone
}

func (d *Driver) livePod(id string) *pod {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.live[id]
}

func (d *Driver) setLive(p *pod) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.live[p.id] = p
}

func (d *Driver) forget(p *pod) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.live[p.id] == p {
		delete(d.live, p.id)
	}
}

// Claimed are the machines that pods have: all others are nobody's when a daemon starts.
func (d *Driver) Claimed() ([]string, error) {
	pods, err := readNames(d.podDir(""))
	var machines []string
	for _, id := range pods {
		if s, err := d.readState(id); err == nil && s.Machine != "" {
			machines = append(machines, s.Machine)
		}
	}
	return machines, err
}

// errReleased is why a pod ended for a driver that has let go of it.
var errReleased = fmt.Errorf("virtual machine is left to another driver: %w", errdefs.ErrUnavailable)

// Release lets go of all pods as the end of a daemon does: their machines run on, and
// another driver can attach to them. What this one has handed out knows nothing of the
// machines any more and is good only to be removed. No call may be under way.
func (d *Driver) Release() error {
	d.mu.Lock()
	pods := slices.Collect(maps.Values(d.live))
	clear(d.live)
	d.mu.Unlock()
	var errs []error
	for _, p := range pods {
		p.end(errReleased)
		p.watching.Wait()
		if p.volumes != nil {
			errs = append(errs, p.volumes.Release())
		}
		if p.machine != nil && p.machine.Release != nil {
			errs = append(errs, p.machine.Release())
		}
		p.machine, p.volumes = nil, nil
	}
	return errors.Join(errs...)
}
