package vmsandbox

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/vmsandbox/vmm"
)

// grown makes the machine large enough for a container with a limit in bytes.
func grown(t *testing.T, p *pod, c runtime.Container, limit int64) error {
	t.Helper()
	return p.growFor(t.Context(), idOf(c), &runtime.Resources{MemoryLimit: limit})
}

// Two containers that are made at once get memory for both.
func TestMemoryGrowsForTwoAtOnce(t *testing.T) {
	w := newWorld(t)
	p := running(t, w, podConfig(t))
	p.driver.opts.MaxMemoryMiB = 4096
	a, b := started(t, p, containerConfig("a")), started(t, p, containerConfig("a"))
	var other sync.WaitGroup
	var once sync.Once
	w.tell(func(call string) {
		if !strings.HasPrefix(call, "add memory") {
			return
		}
		once.Do(func() {
			other.Go(func() {
				if err := grown(t, p, b, 1<<30); err != nil {
					t.Error(err)
				}
			})
			time.Sleep(100 * time.Millisecond) // it has begun
		})
	})
	if err := grown(t, p, a, 1<<30); err != nil {
		t.Error(err)
	}
	other.Wait()
	if s := p.snapshot(); int64(s.Guest.MemoryBytes)+s.Added < 2<<30+guestReserve {
		t.Errorf("the machine has grown by %d MiB: %q", s.Added>>20, w.since(0))
	}
}

// A limit that is as good as none counts as such beside another.
func TestMemoryGrowsWithoutOverflow(t *testing.T) {
	w := newWorld(t)
	p := running(t, w, podConfig(t))
	a, b := started(t, p, containerConfig("a")), started(t, p, containerConfig("a"))
	if err := grown(t, p, a, 100<<20); err != nil {
		t.Fatal(err)
	}
	if err := grown(t, p, b, math.MaxInt64); err != nil {
		t.Fatal(err)
	}
	if !w.has("add memory 768") {
		t.Errorf("not grown to what is possible: %q", w.since(0))
	}
}

// A limit that there is no memory for does not count.
func TestMemoryIsNotThere(t *testing.T) {
	w := newWorld(t)
	p := running(t, w, podConfig(t))
	c := started(t, p, containerConfig("a"))
	w.failing = "add memory 128"
	if err := grown(t, p, c, 300<<20); !errors.Is(err, errBroken) {
		t.Errorf("error = %v", err)
	}
	if m := p.container(idOf(c)).record().Memory; m != 0 {
		t.Errorf("a limit of %d is noted", m)
	}
}

// Memory that the guest did not take into use is taken when it is wanted again.
func TestMemoryIsTakenLater(t *testing.T) {
	w := newWorld(t)
	p := running(t, w, podConfig(t))
	c := started(t, p, containerConfig("a"))
	w.failing = "online"
	if err := grown(t, p, c, 300<<20); !errors.Is(err, errBroken) {
		t.Errorf("error = %v", err)
	}
	w.failing = ""
	before := len(w.since(0))
	for range 2 {
		if err := grown(t, p, c, 300<<20); err != nil {
			t.Error(err)
		}
	}
	var online []string
	for _, call := range w.since(before) {
		if call == "online" || strings.HasPrefix(call, "add memory") {
			online = append(online, call)
		}
	}
	if !slices.Equal(online, []string{"online"}) {
		t.Errorf("of the guest was asked %q", online)
	}
}

// A machine that grows a little at a time has memory for all limits in so many pieces as it
// takes.
func TestMemoryGrowsInFewPieces(t *testing.T) {
	w := newWorld(t)
	p := running(t, w, podConfig(t))
	p.driver.opts.MaxMemoryMiB = 8192
	c := started(t, p, containerConfig("a"))
	for limit := int64(256 << 20); limit <= 6<<30; limit += memoryStep {
		if err := grown(t, p, c, limit); err != nil {
			t.Fatal(err)
		}
		if s := p.snapshot(); int64(s.Guest.MemoryBytes)+s.Added < limit+guestReserve {
			t.Fatalf("the machine has grown by %d MiB for %d", s.Added>>20, limit>>20)
		}
	}
	if n := len(p.snapshot().Pieces); n > vmm.MemoryPieces {
		t.Errorf("%d pieces: %q", n, w.since(0))
	}
}

// Who finds that a machine takes no more pieces gets what there is.
func TestMemoryTakesNoMorePieces(t *testing.T) {
	w := newWorld(t)
	p := running(t, w, podConfig(t))
	c := started(t, p, containerConfig("a"))
	w.failing, w.failure = "add memory 128", errdefs.ErrResourceExhausted
	if err := grown(t, p, c, 300<<20); err != nil {
		t.Error(err)
	}
	if s := p.snapshot(); s.Added != 0 || w.has("online") {
		t.Errorf("%d MiB count as added: %q", s.Added>>20, w.since(0))
	}
}

// An update that needs more memory waits for a checkpoint as long as it may, and no longer.
func TestUpdateDuringCheckpoint(t *testing.T) {
	w := newWorld(t)
	p, c := saver(t, w)
	saving, goOn := make(chan struct{}), make(chan struct{})
	w.tell(func(call string) {
		if call == "snapshot" {
			close(saving)
			<-goOn
		}
	})
	saved, updated, dir := make(chan error, 1), make(chan error, 1), t.TempDir()
	go func() { saved <- p.Checkpoint(t.Context(), dir, []string{idOf(c)}) }()
	select {
	case <-saving:
	case err := <-saved:
		t.Fatalf("checkpoint: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	go func() { updated <- c.Update(ctx, &runtime.Resources{MemoryLimit: 300 << 20}) }()
	select {
	case err := <-updated:
		if !errdefs.IsUnavailable(err) {
			t.Errorf("error = %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Error("the update waits on though its time is over")
	}
	close(goOn)
	if err := <-saved; err != nil {
		t.Error(err)
	}
	if err := c.Update(t.Context(), &runtime.Resources{MemoryLimit: 300 << 20}); err != nil || !w.has("add memory 128") {
		t.Errorf("after the checkpoint: %v, %q", err, w.since(0))
	}
}
