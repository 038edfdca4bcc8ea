package template

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cricket-cri/cricket/vmsandbox/vmm"
)

func TestStockIsFilledAndRefilled(t *testing.T) {
	var warmed atomic.Int32
	f := newFixture(t, Options{Size: 2, Warm: func(_ context.Context, vm *VM) error {
		warmed.Add(1)
		return vm.Guest.Sysctl(context.Background(), map[string]string{"a": "b"})
	}}).begin(t)
	f.stocked(t, 2)
	ids, _ := f.h.List(t.Context())
	if len(ids) != 2 || warmed.Load() != 3 {
		t.Errorf("%d machines, %d were warmed", len(ids), warmed.Load())
	}
	for _, id := range ids {
		m := f.h.machine(id)
		if want := []string{"sysctl", "sync true"}; !m.isPaused() || !slices.Equal(m.did(), want) {
			t.Errorf("paused %t after %v", m.isPaused(), m.did())
		}
		if d := m.config.Disks["rw0"]; !slices.Equal(d.Files, []string{"/disks/" + id + "/rw0"}) || !d.Volatile {
			t.Errorf("disk = %v", d)
		}
	}
	if f.disks.copied != 2 {
		t.Errorf("%d disks are copies of the template's, whose memory knows it as mounted", f.disks.copied)
	}
	vm := f.claim(t)
	m := f.h.machine(vm.Machine.ID())
	if vm.Info.Kernel != "6.12" {
		t.Errorf("info = %+v", vm.Info)
	}
	if vm.Origin != Parked || m.isPaused() || !slices.Equal(vm.Mounted, []string{"rw0"}) {
		t.Errorf("claimed %+v, paused %t", vm, m.isPaused())
	}
	if st, err := os.Stat(vm.Volumes); err != nil || !st.IsDir() {
		t.Errorf("volumes: %v", err)
	}
	f.stocked(t, 2)
	if err := f.Remove(t.Context(), vm.Machine.ID()); err != nil {
		t.Fatal(err)
	}
	_ = vm.Close()
	if ids, _ := f.h.List(t.Context()); len(ids) != 2 || slices.Contains(ids, vm.Machine.ID()) {
		t.Errorf("machines = %v", ids)
	}
	if s := f.Status(); !s.Ready || s.Parked != 2 || s.Stats.Claims[Parked] != 1 || s.Stats.Templates != 1 {
		t.Errorf("status = %+v", s)
	}
	if boots, templates, _ := f.h.count(); boots != 0 || templates != 1 {
		t.Errorf("%d boots, %d templates", boots, templates)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	f.nothing(t)
}

// nothing expects that no machine and nothing of one is left, but those given.
func (f *fixture) nothing(t *testing.T, but ...string) {
	t.Helper()
	slices.Sort(but)
	ids, _ := f.h.List(t.Context())
	owners, _ := f.disks.Owners()
	entries, _ := os.ReadDir(f.options.Dir)
	var dirs []string
	for _, e := range entries {
		dirs = append(dirs, e.Name())
	}
	for what, names := range map[string][]string{"machines": ids, "disks": owners, "directories": dirs} {
		if !slices.Equal(names, but) {
			t.Errorf("%s left: %v, want %v", what, names, but)
		}
	}
}

func TestManyClaimsAtOnce(t *testing.T) {
	for _, size := range []int{0, 3} {
		f := newFixture(t, Options{Size: size}).begin(t)
		f.stocked(t, 0)
		const claims = 24
		vms, errs := make([]*VM, claims), make([]error, claims)
		var all sync.WaitGroup
		for i := range claims {
			all.Go(func() { vms[i], errs[i] = f.Claim(t.Context()) })
		}
		all.Wait()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		for _, vm := range vms {
			if seen[vm.Machine.ID()] || f.h.machine(vm.Machine.ID()).isPaused() {
				t.Errorf("machine %s was given twice or is paused", vm.Machine.ID())
			}
			seen[vm.Machine.ID()] = true
		}
		f.stocked(t, size)
		for id := range seen {
			all.Go(func() { _ = f.Remove(t.Context(), id) })
		}
		all.Wait()
		if ids, _ := f.h.List(t.Context()); len(ids) != size {
			t.Errorf("%d machines left", len(ids))
		}
		for _, vm := range vms {
			_ = vm.Close()
		}
		_ = f.Close()
		f.nothing(t)
	}
}

func TestWithoutTemplateMachinesAreBooted(t *testing.T) {
	f := newFixture(t, Options{Size: 1})
	var fail atomic.Bool
	fail.Store(true)
	f.h.start = func(c vmm.Config) error {
		if c.Memory.Shared && fail.Load() {
			return errors.New("out of luck")
		}
		return nil
	}
	f.begin(t)
	vm := f.claim(t)
	if vm.Origin != Booted {
		t.Errorf("origin = %s", vm.Origin)
	}
	if s := f.Status(); s.Ready || !strings.Contains(s.Reason, "out of luck") {
		t.Errorf("status = %+v", s)
	}
	fail.Store(false)
	eventually(t, "a template after all", func() bool { return f.Status().Ready })
	f.stocked(t, 1)
	if err := f.Remove(t.Context(), vm.Machine.ID()); err != nil {
		t.Error(err)
	}
	_ = f.Close()
	f.nothing(t)
}

func TestClonesThatDoNotWork(t *testing.T) {
	f := newFixture(t, Options{Size: 0})
	var fail atomic.Bool
	fail.Store(true)
	f.h.start = func(c vmm.Config) error {
		if c.State != nil && fail.Load() {
			return errors.New("state does not fit")
		}
		return nil
	}
	f.begin(t)
	for range brokenClones {
		if vm := f.claim(t); vm.Origin != Booted {
			t.Errorf("origin = %s", vm.Origin)
		}
	}
	fail.Store(false)
	eventually(t, "a second template", func() bool { return f.Status().Stats.Templates == 2 })
	if vm := f.claim(t); vm.Origin != Cloned {
		t.Errorf("origin = %s", vm.Origin)
	}
	if s := f.Status(); s.Stats.BrokenClones != brokenClones {
		t.Errorf("stats = %+v", s.Stats)
	}
}

func TestParkedMachineThatDies(t *testing.T) {
	f := newFixture(t, Options{Size: 2}).begin(t)
	f.stocked(t, 2)
	ids, _ := f.h.List(t.Context())
	f.h.machine(ids[0]).kill()
	eventually(t, "the dead one is replaced", func() bool {
		now, _ := f.h.List(t.Context())
		return len(now) == 2 && !slices.Contains(now, ids[0]) && f.Status().Parked == 2
	})
	if vm := f.claim(t); vm.Origin != Parked {
		t.Errorf("origin = %s", vm.Origin)
	}
	if s := f.Status(); s.Stats.Spoiled != 1 {
		t.Errorf("stats = %+v", s.Stats)
	}
}

func TestParkedMachineThatHangs(t *testing.T) {
	f := newFixture(t, Options{Size: 1}).begin(t)
	f.stocked(t, 1)
	hanging, _ := f.h.List(t.Context())
	f.h.set(func() { f.h.mute = func(id string) bool { return id == hanging[0] } })
	began := time.Now()
	vm := f.claim(t)
	if vm.Machine.ID() == hanging[0] || time.Since(began) > aliveTime+3*time.Second {
		t.Errorf("%s from %s after %v", vm.Machine.ID(), vm.Origin, time.Since(began))
	}
	if f.h.machine(hanging[0]) != nil {
		t.Error("the machine that hangs was not removed")
	}
}

func TestClaimThatIsGivenUp(t *testing.T) {
	f := newFixture(t, Options{Size: 1})
	hold := make(chan struct{})
	f.h.start = func(c vmm.Config) error {
		if c.State != nil {
			<-hold
		}
		return nil
	}
	f.begin(t)
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error)
	go func() {
		_, err := f.Claim(ctx)
		failed <- err
	}()
	eventually(t, "the claim waits", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return len(f.waiters) == 1
	})
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Errorf("claim: %v", err)
	}
	close(hold)
	f.stocked(t, 1)
	if ids, _ := f.h.List(t.Context()); len(ids) != 1 {
		t.Errorf("machines = %v", ids)
	}
}

// TestWithdrawnMachineIsKept takes back a claim at the moment at which it was served.
func TestWithdrawnMachineIsKept(t *testing.T) {
	f := newFixture(t, Options{Size: 1})
	vm, err := f.boot(t.Context(), false, nil)
	if err != nil {
		t.Fatal(err)
	}
	w := &waiter{ch: make(chan result, 1)}
	f.waiters = append(f.waiters, w)
	if !f.offer(vm) {
		t.Fatal("nobody waits")
	}
	f.withdraw(w)
	f.stocked(t, 1)
}

func TestClose(t *testing.T) {
	f := newFixture(t, Options{Size: 1}).begin(t)
	f.stocked(t, 1)
	f.h.set(func() {
		f.h.start = func(vmm.Config) error { <-f.ctx.Done(); return f.ctx.Err() }
	})
	mine := f.claim(t)
	failed := make(chan error)
	go func() {
		_, err := f.Claim(t.Context())
		failed <- err
	}()
	eventually(t, "the claim waits", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return len(f.waiters) == 1
	})
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-failed; !errdefs.IsUnavailable(err) {
		t.Errorf("claim: %v", err)
	}
	f.nothing(t, mine.Machine.ID())
	if _, err := f.Claim(t.Context()); !errdefs.IsUnavailable(err) {
		t.Errorf("claim of a closed pool: %v", err)
	}
}
