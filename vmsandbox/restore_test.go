package vmsandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/containerd/errdefs"
)

// A restored machine has the memory that it was given, once.
func TestRestoredMachineGrows(t *testing.T) {
	w := newWorld(t)
	p, c := saver(t, w)
	if err := grown(t, p, c, 500<<20); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := p.Checkpoint(t.Context(), dir, []string{idOf(c)}); err != nil {
		t.Fatal(err)
	}
	r := restorationOf(t, dir, idOf(c))
	made, err := p.driver.Restore(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	restored := made.(*pod)
	t.Cleanup(func() {
		if err := errors.Join(restored.Stop(context.Background()), restored.Remove(context.Background())); err != nil {
			t.Error(err)
		}
	})
	had := restored.snapshot()
	again, err := restored.Container(t.Context(), r.Containers[0].Config.ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := grown(t, restored, again, 700<<20); err != nil {
		t.Fatal(err)
	}
	s := restored.snapshot()
	if has := int64(s.Guest.MemoryBytes) + s.Added; s.Added <= had.Added || has < 700<<20 {
		t.Errorf("for 700 MiB the machine has %d MiB, of them %d added, %d before", has>>20, s.Added>>20, had.Added>>20)
	}
}

// Memory that a daemon before has added and not recorded makes a checkpoint that nothing can
// go on from: there is none.
func TestUnknownMemoryIsNotSaved(t *testing.T) {
	w := newWorld(t)
	p, c := saver(t, w)
	if err := p.machine.AddMemory(t.Context(), memoryStep); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := p.Checkpoint(t.Context(), dir, []string{idOf(c)}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("error = %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 || !p.Status().Ready {
		t.Errorf("left %v, %v", left, err)
	}
}

// What volumes become by themselves is in the pod's record, also while a container is made.
func TestFollowedVolumesAreRecorded(t *testing.T) {
	w := newWorld(t)
	p := running(t, w, podConfig(t))
	for i := 1; i <= 2; i++ {
		p.volumes.(*fakeVolumes).follow()
		if got, want := string(p.snapshot().Volumes), fmt.Sprintf(`{"version":%d}`, i); got != want {
			t.Errorf("recorded is %s, want %s", got, want)
		}
	}
}
