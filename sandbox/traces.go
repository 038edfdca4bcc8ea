package sandbox

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/cricket-cri/cricket/runtime/monitor"
)

// traces are what is found of sandboxes and containers, recorded or not.
type traces struct {
	sandboxes  map[string]bool
	containers map[string]string // the sandbox of each
}

func newTraces() traces {
	return traces{sandboxes: map[string]bool{}, containers: map[string]string{}}
}

// container notes a container, and with it the sandbox that it was made in.
func (t traces) container(id, sandbox string) {
	t.sandboxes[sandbox], t.containers[id] = true, sandbox
}

// entries notes what a monitor supervises: holds have the ids of their sandboxes. What
// does not say whose it is was made by somebody else.
func (t traces) entries(all []monitor.Entry) {
	for _, e := range all {
		switch {
		case e.Kind == monitor.KindHold:
			t.sandboxes[e.ID] = true
		case e.Kind == "" && e.Sandbox != "":
			t.container(e.ID, e.Sandbox)
		}
	}
}

// traces looks everywhere. A sandbox or container of which the intent is recorded before
// it is made, and forgotten after all of it is gone, is found as long as there is
// anything of it.
func (k *Kernel) traces(ctx context.Context) (traces, error) {
	t := newTraces()
	entries, err := k.opts.Monitor.List(ctx)
	if err != nil {
		return t, fmt.Errorf("list what is supervised: %w", err)
	}
	t.entries(entries)
	owners, err := k.layerOwners()
	if err != nil {
		return t, err
	}
	for id, owner := range owners {
		t.container(id, owner)
	}
	attached, err := k.opts.Network.List()
	if err != nil {
		return t, err
	}
	pinned, err := readNames(k.path("ns"))
	if err != nil {
		return t, err
	}
	made, err := readNames(k.path("sandboxes"))
	if err != nil {
		return t, err
	}
	for _, id := range slices.Concat(attached, pinned, made) {
		t.sandboxes[id] = true
	}
	for _, id := range made {
		claimed, err := readNames(k.path("sandboxes", id, containersDir))
		if err != nil {
			return t, err
		}
		for _, name := range claimed {
			t.container(name, id)
		}
	}
	return t, nil
}

// List names every sandbox that has left a trace: a directory, pinned namespaces, a
// network attachment, a writable layer or a process that the monitor supervises.
func (k *Kernel) List(ctx context.Context) ([]string, error) {
	t, err := k.traces(ctx)
	if err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(t.sandboxes)), nil
}

// Containers says of every container that has left a trace in which sandbox it is.
func (k *Kernel) Containers(ctx context.Context) (map[string]string, error) {
	t, err := k.traces(ctx)
	return t.containers, err
}

// Sweep removes the traces of a sandbox that no record knows.
func (k *Kernel) Sweep(ctx context.Context, id string) error {
	if id == "" || id != cleanName(id) {
		return fmt.Errorf("sweep sandbox %q: %w", id, errdefs.ErrInvalidArgument)
	}
	p := k.whatIsLeft(id)
	// The directory, if there is one, need not know all that the monitor does.
	t := newTraces()
	entries, err := k.opts.Monitor.List(ctx)
	if err != nil {
		return fmt.Errorf("sweep sandbox: %w", err)
	}
	t.entries(entries)
	for container, sandbox := range t.containers {
		if sandbox == id {
			err = errors.Join(err, p.container(container).Remove(ctx))
		}
	}
	if t.sandboxes[id] { // even one that its configuration has no use for
		err = errors.Join(err, k.opts.Monitor.Release(ctx, id))
	}
	if err != nil {
		return fmt.Errorf("sweep sandbox: %w", err)
	}
	return p.Remove(ctx)
}

// SweepContainer removes the traces of a container that no record knows.
func (k *Kernel) SweepContainer(ctx context.Context, sandbox, id string) error {
	for _, name := range []string{sandbox, id} {
		if name == "" || name != cleanName(name) {
			return fmt.Errorf("sweep container %q of %q: %w", id, sandbox, errdefs.ErrInvalidArgument)
		}
	}
	return k.whatIsLeft(sandbox).container(id).Remove(ctx)
}

// whatIsLeft is a sandbox as far as its directory tells.
func (k *Kernel) whatIsLeft(id string) *pod {
	s, err := k.readState(id)
	if err != nil {
		return k.remains(id)
	}
	return k.newPod(s)
}
