package accel

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cricket-cri/cricket/runtime/mux"
	"github.com/cricket-cri/cricket/vmsandbox/agent"
	"github.com/cricket-cri/cricket/vmsandbox/vmm"
)

// Modes in which an accelerator is chosen.
const (
	Auto = "auto" // KVM if that is proven, else TCG
	KVM  = vmm.AccelKVM
	TCG  = vmm.AccelTCG
)

// DefaultDeadline is how long a guest may take to answer under KVM. It is many times
// what one takes, since the verdict is kept.
const DefaultDeadline = 15 * time.Second

// Options say what is proven, and how.
type Options struct {
	Hypervisor vmm.Hypervisor
	// Shape is what pods run in. Its accelerator does not count.
	Shape vmm.Shape
	// Cache is the file that keeps the verdict; empty keeps none.
	Cache string
	// Deadline bounds the boot, DefaultDeadline if it is 0.
	Deadline time.Duration
	// Answer returns when the guest of a running machine has shown that it lives; nil
	// for Hello.
	Answer func(ctx context.Context, m vmm.Machine) error
	// Device is the node of KVM, /dev/kvm if it is empty.
	Device string
	Log    *slog.Logger
}

// Verdict is what machines are to use.
type Verdict struct {
	Accelerator string `json:"accelerator"`
	// Reason says in words why; for TCG what was wrong with KVM.
	Reason string `json:"reason"`
	// Proven: a guest has answered, or failed to, under KVM.
	Proven bool `json:"proven"`
	// At and Took say when a guest was booted and how long that took.
	At   time.Time     `json:"at,omitzero"`
	Took time.Duration `json:"took,omitempty"`
	// Remembered: this was found out earlier, and nothing that matters has changed.
	Remembered bool `json:"-"`
}

// Choose returns the verdict for a mode: Auto, KVM or TCG. Anew does not rely on what
// was found out earlier. Where KVM is demanded and does not work the verdict says why,
// and the error is errdefs.ErrFailedPrecondition.
func Choose(ctx context.Context, mode string, anew bool, o Options) (Verdict, error) {
	switch mode {
	case TCG:
		return Verdict{Accelerator: TCG, Reason: "the configuration says so"}, nil
	case Auto, KVM:
	default:
		return Verdict{}, fmt.Errorf("choose accelerator %q: %w", mode, errdefs.ErrInvalidArgument)
	}
	v, err := Prove(ctx, anew, o)
	if err != nil {
		return Verdict{}, err
	}
	if mode == KVM && v.Accelerator != KVM {
		return v, fmt.Errorf("choose accelerator kvm: %w: %s", errdefs.ErrFailedPrecondition, v.Reason)
	}
	return v, nil
}

// Prove returns the verdict for this node, from the cache unless anew. An error means
// that nothing was found out.
func Prove(ctx context.Context, anew bool, o Options) (Verdict, error) {
	o = o.withDefaults()
	now, err := surroundings(ctx, o)
	if err != nil {
		return Verdict{}, fmt.Errorf("prove accelerator: %w", err)
	}
	if v, ok := recall(o.Cache, now); ok && !anew {
		v.Remembered = true
		return v, nil
	}
	f, err := os.OpenFile(o.Device, os.O_RDWR, 0)
	if err != nil { // what can change at any time is not remembered
		return Verdict{Accelerator: TCG, Reason: err.Error()}, nil
	}
	f.Close()
	v, err := try(ctx, o)
	if err != nil {
		return Verdict{}, fmt.Errorf("prove accelerator: %w", err)
	}
	o.Log.Info("accelerator is chosen", "accelerator", v.Accelerator, "reason", v.Reason, "took", v.Took)
	if err := remember(o.Cache, now, v); err != nil {
		o.Log.Warn("accelerator is not remembered", "error", err)
	}
	return v, nil
}

// Recall returns what was found out earlier on this node, if that still counts. It boots
// nothing.
func Recall(ctx context.Context, o Options) (Verdict, bool, error) {
	o = o.withDefaults()
	now, err := surroundings(ctx, o)
	if err != nil {
		return Verdict{}, false, fmt.Errorf("recall accelerator: %w", err)
	}
	v, ok := recall(o.Cache, now)
	v.Remembered = ok
	return v, ok, nil
}

func (o Options) withDefaults() Options {
	if o.Deadline == 0 {
		o.Deadline = DefaultDeadline
	}
	if o.Answer == nil {
		o.Answer = Hello
	}
	if o.Device == "" {
		o.Device = "/dev/kvm"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Shape.Accelerator = KVM
	return o
}

// reasonBytes bounds a reason.
const reasonBytes = 1024

// removeTime bounds how long it may take to be rid of the guest.
const removeTime = 10 * time.Second

// try boots a guest under KVM. What says nothing of KVM is an error.
func try(ctx context.Context, o Options) (Verdict, error) {
	id, err := probeID()
	if err != nil {
		return Verdict{}, err
	}
	began := time.Now()
	err = boot(ctx, id, o)
	v := Verdict{Accelerator: KVM, Reason: "a guest has answered under KVM", Proven: true, At: began.UTC(), Took: time.Since(began)}
	if ctx.Err() != nil {
		return Verdict{}, ctx.Err()
	}
	if errdefs.IsNotFound(err) || errdefs.IsInvalidArgument(err) {
		return Verdict{}, err
	}
	if err != nil {
		v.Accelerator, v.Reason = TCG, err.Error()
		if errors.Is(err, context.DeadlineExceeded) {
			v.Reason = fmt.Sprintf("no guest has answered under KVM within %v: %v", o.Deadline, err)
		}
		if len(v.Reason) > reasonBytes {
			v.Reason = v.Reason[:reasonBytes] + "..."
		}
	}
	return v, nil
}

func boot(ctx context.Context, id string, o Options) error {
	// Whatever a start leaves, when it was cut off, goes too.
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTime)
		defer cancel()
		if err := o.Hypervisor.Remove(ctx, id); err != nil {
			o.Log.Warn("guest of the proof is not removed", "machine", id, "error", err)
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, o.Deadline)
	defer cancel()
	m, err := o.Hypervisor.Start(ctx, vmm.Config{ID: id, Shape: o.Shape, Deadline: o.Deadline})
	if err != nil {
		return err
	}
	defer func() { _ = m.Close() }()
	answered := make(chan error, 1)
	go func() { answered <- o.Answer(ctx, m) }()
	select {
	case err = <-answered:
		return err
	case <-m.Done():
		cancel()
		if err = <-answered; err == nil {
			err = errors.New("it answered once")
		}
		return fmt.Errorf("QEMU has ended%s: %w", said(m), err)
	}
}

// said returns what a machine can tell of its end.
func said(m vmm.Machine) string {
	if w, ok := m.(vmm.Witness); ok {
		if words := w.LastWords(); words != "" {
			return "; it said: " + words
		}
	}
	return ""
}

// Hello waits until the agent in a guest answers.
func Hello(ctx context.Context, m vmm.Machine) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", m.Socket(vmm.PortDaemon))
	if err != nil {
		return fmt.Errorf("connect to guest: %w", err)
	}
	defer conn.Close()
	session, err := mux.Connect(ctx, conn, mux.Options{})
	if err != nil {
		return fmt.Errorf("connect to guest: %w", err)
	}
	defer func() { _ = session.Close() }() // the guest is done with, whatever it says
	if _, err := agent.NewClient(session.Open).Hello(ctx); err != nil {
		return fmt.Errorf("ask guest: %w", err)
	}
	return nil
}

// prefix of the machines that only prove something. A daemon that was killed while it
// did finds them by it.
const prefix = "proof-"

func probeID() (string, error) {
	b := make([]byte, 6)
	if _, err := rand.Read(b); err != nil {
		return "", err
	}
	return prefix + hex.EncodeToString(b), nil
}
