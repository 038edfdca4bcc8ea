package vmsandbox

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// A guest is asked every pingInterval whether it is there. One that neither answers nor
// does anything for silence hangs; one that computes is given longer, since an emulated
// machine is slow and not dead; and one that the host or its pod's limits do not let compute
// is given as much processor time, but not more than lastSilence.
const (
	pingInterval = 600 * time.Millisecond
	silence      = 1100 * time.Millisecond
	busySilence  = 15 * time.Second
	lastSilence  = 5 * time.Minute
	// sampleInterval is how often a machine that has not answered is looked at.
	sampleInterval = 100 * time.Millisecond
)

// watch ends the pod when its machine does.
func (p *pod) watch() {
	p.watching.Go(func() {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		pings := make(chan error, 1)
		p.watching.Go(func() { pings <- p.ping(ctx) })
		var reason error
		select {
		case <-p.done:
			return
		case <-p.machine.Done():
			reason = fmt.Errorf("virtual machine has ended: %w", errdefs.ErrUnavailable)
		case <-p.machine.Lost:
			reason = fmt.Errorf("channel to the guest has broken: %w: %w", errdefs.ErrUnavailable, p.machine.Why())
		case reason = <-pings:
		}
		p.fail(reason)
	})
}

// fail ends the pod for a reason that is not its owner's, and its machine with it.
func (p *pod) fail(reason error) {
	if !p.end(reason) {
		return
	}
	p.driver.opts.Log.Warn("virtual pod has died", "sandbox", p.id, "machine", p.machine.ID(), "reason", reason)
	if err := p.kill(); err != nil {
		p.driver.opts.Log.Error("virtual machine is not killed", "sandbox", p.id, "error", err)
	}
}

// kill ends the hypervisor's process at once and waits for it, for a short time.
func (p *pod) kill() error {
	select {
	case <-p.machine.Done():
		return nil
	default:
	}
	fd, err := unix.PidfdOpen(p.machine.Pid(), 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open virtual machine's process: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	select {
	case <-p.machine.Done(): // the number may be another's by now
		return nil
	default:
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill virtual machine: %w", err)
	}
	select {
	case <-p.machine.Done():
		return nil
	case <-time.After(killBudget):
		return fmt.Errorf("virtual machine has not ended %s after SIGKILL: %w", killBudget, errdefs.ErrUnavailable)
	}
}

// ping returns when the guest does not answer any more.
func (p *pod) ping(ctx context.Context) error {
	tick := time.NewTicker(pingInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		if err := p.pingOnce(ctx); err != nil {
			return err
		}
	}
}

func (p *pod) pingOnce(ctx context.Context) error {
	if err := p.still.Acquire(ctx, 1); err != nil {
		return err
	}
	defer p.still.Release(1)
	ctx, cancel := context.WithTimeout(ctx, lastSilence)
	defer cancel()
	answered := make(chan error, 1)
	go func() { // ends with ctx
		answered <- p.machine.Ping(ctx)
	}()
	tick := time.NewTicker(sampleInterval)
	defer tick.Stop()
	s := newSilence(p.machine.Pid())
	for {
		select {
		case err := <-answered:
			if err != nil {
				return fmt.Errorf("guest does not answer: %w: %w", errdefs.ErrUnavailable, err)
			}
			return nil
		case <-tick.C:
		}
		switch s.look(time.Now()); {
		case s.idle >= silence:
			return fmt.Errorf("guest hangs: it has not answered for %s, nor done anything: %w", silence, errdefs.ErrUnavailable)
		case s.busy() >= busySilence:
			return fmt.Errorf("guest hangs: it has computed for %s and not answered: %w", busySilence, errdefs.ErrUnavailable)
		}
	}
}
