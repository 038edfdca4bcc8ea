package template

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/cricket-cri/cricket/vmsandbox/vmm"
)

// stubborn does not always remove machines, as when the monitor dies meanwhile.
type stubborn struct {
	*hypervisor
	refusals atomic.Int32 // left
	// stillborn machines end before they answer.
	stillborn atomic.Bool
}

func (s *stubborn) Start(ctx context.Context, c vmm.Config) (vmm.Machine, error) {
	m, err := s.hypervisor.Start(ctx, c)
	if err == nil && s.stillborn.Load() {
		s.machine(c.ID).kill()
	}
	return m, err
}

func (s *stubborn) Remove(ctx context.Context, id string) error {
	if s.refusals.Add(-1) >= 0 {
		return errors.New("nobody is there")
	}
	return s.hypervisor.Remove(ctx, id)
}

// TestMachinesThatStay: what could not be removed at once is removed later, be it a
// machine that nobody wants or what one has left that was never whole.
func TestMachinesThatStay(t *testing.T) {
	f := newFixture(t, Options{})
	s := &stubborn{hypervisor: f.h}
	f.options.Hypervisor = s
	f.begin(t)
	vm := f.claim(t)
	s.refusals.Store(2)
	f.remove(vm)
	f.empty(t)

	s.stillborn.Store(true)
	s.refusals.Store(1)
	if _, err := f.Claim(t.Context()); err == nil {
		t.Error("a machine that has ended")
	}
	f.empty(t)
}

// empty waits until there are no machines.
func (f *fixture) empty(t *testing.T) {
	t.Helper()
	eventually(t, "no machine is left", func() bool {
		ids, err := f.h.List(t.Context())
		return err == nil && len(ids) == 0
	})
	eventually(t, "no disk is left", func() bool {
		owners, err := f.disks.Owners()
		return err == nil && len(owners) == 0
	})
	f.nothing(t)
}
