package vmsandbox

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/monitor"
	"github.com/cricket-cri/cricket/runtime/spec"
)

const (
	// flushBudget is how long a container's end may wait for what it wrote.
	flushBudget = 5 * time.Second
	// lossDelay is how long a call that broke off waits to learn whether the machine died.
	lossDelay = 2 * time.Second
)

// container is a container in a guest. What there is to know of it, the guest's supervisor
// knows, and the record when the guest is gone.
type container struct {
	id  string
	pod *pod
}

func (p *pod) container(id string) *container { return &container{id: id, pod: p} }

func (c *container) dir(elem ...string) string {
	return c.pod.dir(append([]string{containersDir, c.id}, elem...)...)
}

// Container re-adopts a container after a restart of the daemon, also one that is only
// half made.
func (p *pod) Container(_ context.Context, id string) (runtime.Container, error) {
	c, err := p.find(id)
	if err != nil {
		return nil, err
	}
	return c, nil
}

func (p *pod) find(id string) (*container, error) {
	if id == "" || id != cleanName(id) {
		return nil, fmt.Errorf("find container %q: %w", id, errdefs.ErrInvalidArgument)
	}
	c := p.container(id)
	if _, err := os.Lstat(c.dir()); err != nil {
		return nil, fmt.Errorf("find container: %w: %w", errdefs.ErrNotFound, err)
	}
	return c, nil
}

// State is the guest's word, or what is left to say without one.
func (c *container) State(ctx context.Context) (s runtime.State, err error) {
	r := c.record()
	if r.exited() {
		return runtime.State{Phase: runtime.Exited, StartedAt: r.StartedAt, Exit: *r.Exit}, nil
	}
	if _, ended := c.pod.ended(); ended != nil && r.Created {
		return runtime.State{Phase: runtime.Exited, StartedAt: r.StartedAt, Exit: c.lost()}, nil
	}
	err = c.pod.guest(ctx, callBudget, func(ctx context.Context) error {
		s, err = c.pod.machine.Monitor.State(ctx, c.name())
		return err
	})
	s.Pid = 0 // the number is one of the guest's
	if err == nil && r.Held && s.Phase == runtime.Running {
		return runtime.State{Phase: runtime.Created}, nil
	}
	if err == nil && r.Name != "" && !r.StartedAt.IsZero() {
		s.StartedAt = r.StartedAt // of the one that it was before, the guest knows
	}
	return s, err
}

// Start runs the container's process.
func (c *container) Start(ctx context.Context) error {
	return c.pod.guest(ctx, longBudget, func(ctx context.Context) error {
		if c.record().Held {
			return c.release(ctx)
		}
		at, err := c.pod.machine.Monitor.Start(ctx, c.name())
		if err != nil {
			return err
		}
		return c.note(func(r *containerRecord) { r.StartedAt = at })
	})
}

// release lets a restored container go on. It is noted afterwards: doing it again does no
// harm, and one that was noted and does not run would never run.
func (c *container) release(ctx context.Context) error {
	if err := c.pod.machine.Guest.Thaw(ctx, []string{c.name()}); err != nil {
		return err
	}
	return c.note(func(r *containerRecord) { r.Held, r.StartedAt = false, time.Now() })
}

// Signal sends a signal; a container whose machine is gone has ended.
func (c *container) Signal(ctx context.Context, sig unix.Signal) error {
	if _, ended := c.pod.ended(); ended != nil || c.record().exited() {
		return nil
	}
	if c.record().Held {
		sig = unix.SIGKILL // all others would wait for it to go on
	}
	err := c.pod.guest(ctx, callBudget, func(ctx context.Context) error {
		return c.pod.machine.Monitor.Signal(ctx, c.name(), sig)
	})
	if _, ended := c.pod.ended(); ended != nil {
		return nil
	}
	return err
}

// Wait answers when the container has ended and all that it wrote has arrived. If the
// machine ends first, the exit is unknown.
func (c *container) Wait(ctx context.Context) (runtime.Exit, error) {
	if r := c.record(); r.exited() {
		return *r.Exit, nil
	}
	exit, err := c.await(ctx)
	if err == nil {
		c.flush(ctx)
		return c.noteExit(exit), nil
	}
	if ctx.Err() != nil {
		return runtime.Exit{}, ctx.Err()
	}
	if _, gone := c.pod.ended(); gone == nil {
		if !errdefs.IsUnavailable(err) {
			return runtime.Exit{}, err
		}
		select {
		case <-c.pod.done:
		case <-ctx.Done():
			return runtime.Exit{}, ctx.Err()
		case <-time.After(lossDelay):
			return runtime.Exit{}, err
		}
	}
	if !c.record().Created {
		return runtime.Exit{}, fmt.Errorf("wait for container: %w", errdefs.ErrNotFound)
	}
	return c.lost(), nil
}

func (c *container) await(ctx context.Context) (exit runtime.Exit, err error) {
	within, cancel, err := c.pod.within(ctx, 0)
	if err != nil {
		return exit, err
	}
	defer cancel()
	return c.pod.machine.Monitor.Wait(within, c.name())
}

// flush lets the log and single files be complete; a guest that does not give them up in
// time keeps the rest.
func (c *container) flush(ctx context.Context) {
	err := c.pod.guest(ctx, flushBudget, func(ctx context.Context) error {
		if c.record().Mirrored {
			if err := c.pod.driver.opts.Mirrors.Flush(ctx, c.id); err != nil {
				return fmt.Errorf("complete log: %w", err)
			}
		}
		return c.pod.volumes.Flush(ctx, c.id)
	})
	if err != nil {
		c.pod.driver.opts.Log.Warn("what a container wrote last may be missing", "container", c.id, "error", err)
	}
}

// Exec runs one more process in the container.
func (c *container) Exec(ctx context.Context, e runtime.ExecConfig) (runtime.Exit, error) {
	process, err := c.process()
	if err != nil {
		return runtime.Exit{}, err
	}
	process.Args = e.Args
	process.Terminal = e.Streams.Terminal
	process.ConsoleSize = nil
	within, cancel, err := c.pod.within(ctx, 0)
	if err != nil {
		return runtime.Exit{}, err
	}
	defer cancel()
	return c.pod.machine.Monitor.Exec(within, c.name(), monitor.ExecRequest{Process: process, Timeout: e.Timeout}, e.Streams)
}

// Attach connects streams to the container's process.
func (c *container) Attach(ctx context.Context, s runtime.Streams) error {
	within, cancel, err := c.pod.within(ctx, 0)
	if err != nil {
		return err
	}
	defer cancel()
	return c.pod.machine.Monitor.Attach(within, c.name(), s)
}

// ReopenLog concerns the host's file only.
func (c *container) ReopenLog(ctx context.Context) error {
	if !c.record().Mirrored {
		return nil
	}
	return c.pod.driver.opts.Mirrors.ReopenLog(ctx, c.id)
}

// Update changes limits in the guest, which gets memory if it needs more for them.
func (c *container) Update(ctx context.Context, r *runtime.Resources) error {
	return c.pod.guest(ctx, longBudget, func(ctx context.Context) error {
		if err := c.pod.growFor(ctx, c.id, r); err != nil {
			return err
		}
		if err := c.pod.machine.Monitor.Update(ctx, c.name(), spec.Resources(inGuest(r), true)); err != nil {
			return err
		}
		if r == nil || r.MemoryLimit == 0 {
			return nil
		}
		return c.note(func(record *containerRecord) { record.Memory = r.MemoryLimit })
	})
}

// inGuest leaves out what names processors, memory nodes and pages of the host.
func inGuest(r *runtime.Resources) *runtime.Resources {
	if r == nil {
		return nil
	}
	out := *r
	out.CpusetCpus, out.CpusetMems, out.HugepageLimits = "", "", nil
	return &out
}
