package node

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/cricket-cri/cricket/vmsandbox/accel"
	"github.com/cricket-cri/cricket/vmsandbox/qemu"
	"github.com/cricket-cri/cricket/vmsandbox/vmm"
)

// reprobeUsers are as many users as machines of Reprobe may have, after those of pods.
const reprobeUsers = 16

// Recall says what is known of the accelerator; false if nothing is. Of o it takes Root,
// Image, Shape and Monitor.
func Recall(ctx context.Context, o Options) (accel.Verdict, bool, error) {
	h, done, err := o.beside()
	if err != nil {
		return accel.Verdict{}, false, err
	}
	v, ok, err := accel.Recall(ctx, o.proof(h))
	return v, ok, errors.Join(err, done())
}

// Reprobe boots a guest to find out whether KVM works, beside a daemon that may run: its
// machine is no daemon's. The verdict is kept for the daemon's next start. Of o it takes
// what Recall does, and Launcher; the monitor must be reached.
func Reprobe(ctx context.Context, o Options) (accel.Verdict, error) {
	h, done, err := o.beside()
	if err != nil {
		return accel.Verdict{}, err
	}
	v, err := accel.Prove(ctx, true, o.proof(h))
	return v, errors.Join(err, done())
}

// beside returns a hypervisor with a state and users of its own: daemons pass over its
// machines. Done removes the state.
func (o Options) beside() (h vmm.Hypervisor, done func() error, err error) {
	dir, err := os.MkdirTemp("", "cricket-")
	if err != nil {
		return nil, nil, fmt.Errorf("make directory for the proof: %w", err)
	}
	done = func() error { return os.RemoveAll(dir) }
	o.State = dir
	h, err = o.hypervisor("machines", qemu.DefaultFirstUser+qemu.DefaultUsers, reprobeUsers)
	if err == nil {
		err = os.Chmod(dir, 0o711) // like the daemon's
	}
	if err != nil {
		return nil, nil, errors.Join(err, done())
	}
	return h, done, nil
}
