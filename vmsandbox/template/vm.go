package template

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"path/filepath"

	"github.com/containerd/errdefs"

	"github.com/cricket-cri/cricket/runtime/monitor"
	"github.com/cricket-cri/cricket/runtime/mux"
	"github.com/cricket-cri/cricket/vmsandbox/agent"
	"github.com/cricket-cri/cricket/vmsandbox/vmm"
)

// Origin says how a machine came to be.
type Origin string

// Origins.
const (
	Parked   Origin = "parked"   // taken from the stock
	Cloned   Origin = "cloned"   // made for the claim from the template
	Booted   Origin = "booted"   // made for the claim without a template
	Attached Origin = "attached" // found again
	Restored Origin = "restored" // goes on from a state of its own
)

// VM is a machine with the daemon's channel into its guest.
type VM struct {
	Machine vmm.Machine
	Session *mux.Session
	Guest   agent.Guest
	Monitor *monitor.Client
	// Info is what the guest says of itself. A clone is not asked again what its template
	// has said: the answer is the same, and takes long the first time.
	Info agent.Info
	// NetNS is where the machine's network namespace is pinned, Volumes the directory that
	// the guest can mount as vmm.VolumesTag.
	NetNS, Volumes string
	// Mounted are the slots whose writable disks the guest has mounted. After Attach it is
	// empty.
	Mounted []string
	Origin  Origin

	nice   int  // priority to go back to
	low    bool // runs with low priority
	paused bool
	left   chan struct{} // closed when the machine leaves the stock
}

// Close lets go of the machine without ending it.
func (v *VM) Close() error { return errors.Join(v.Session.Close(), v.Machine.Close()) }

// dead reports whether nobody will answer any more.
func (v *VM) dead() bool {
	select {
	case <-v.Machine.Done():
		return true
	case <-v.Session.Done():
		return true
	default:
		return false
	}
}

// reach connects to the guest of a machine that runs and waits until it returns the greeting.
func reach(ctx context.Context, m vmm.Machine) (*VM, error) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	defer func() {
		cancel()
		<-ended
	}()
	go func() { // a machine that ends is not waited for
		defer close(ended)
		select {
		case <-m.Done():
			cancel()
		case <-ctx.Done():
		}
	}()
	vm, err := connect(ctx, m)
	if err == nil {
		return vm, nil
	}
	select {
	case <-m.Done():
		return nil, fmt.Errorf("machine has ended: %w: %w", errdefs.ErrUnavailable, err)
	default:
		return nil, err
	}
}

func connect(ctx context.Context, m vmm.Machine) (*VM, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", m.Socket(vmm.PortDaemon))
	if err != nil {
		return nil, fmt.Errorf("connect to port: %w: %w", errdefs.ErrUnavailable, err)
	}
	s, err := mux.Connect(ctx, conn, mux.Options{})
	if err != nil {
		return nil, err
	}
	vm := &VM{Machine: m, Session: s, Guest: agent.NewClient(s.Open), left: make(chan struct{})}
	vm.Monitor = monitor.NewClientWithSessions(
		func(ctx context.Context) (net.Conn, error) { return s.Open(ctx, agent.ServiceMonitor) },
		func(ctx context.Context) (net.Conn, error) { return s.OpenSpare(ctx, agent.ServiceMonitor) },
	)
	return vm, nil
}

// Ping asks the guest for a sign of life, in the way that costs it least.
func (v *VM) Ping(ctx context.Context) error {
	err := v.Session.Ping(ctx)
	if errdefs.IsNotImplemented(err) { // a machine that an earlier version has made
		_, err = v.Monitor.Hello(ctx)
	}
	return err
}

// introduce asks the guest what it is.
func (v *VM) introduce(ctx context.Context) (err error) {
	if v.Info, err = v.Guest.Hello(ctx); err != nil {
		return fmt.Errorf("ask guest: %w", err)
	}
	return nil
}

// newID names a machine. It is short, since it is part of paths of sockets.
func newID() string {
	b := make([]byte, 6)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// belongings are the paths of what a machine has beside the hypervisor's.
type belongings struct{ dir, netns, volumes string }

func (p *Pool) belongings(id string) belongings {
	dir := filepath.Join(p.options.Dir, id)
	return belongings{dir: dir, netns: filepath.Join(dir, "netns"), volumes: filepath.Join(dir, "volumes")}
}
