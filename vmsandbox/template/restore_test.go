package template

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cricket-cri/cricket/vmsandbox/vmm"
)

// TestRestoreHasItsCallersTime: how much there is to read is not the pool's to know.
func TestRestoreHasItsCallersTime(t *testing.T) {
	const boot = 50 * time.Millisecond
	f := newFixture(t, Options{Boot: boot})
	path := filepath.Join(t.TempDir(), "state")
	if err := os.WriteFile(path, []byte("state"), 0o600); err != nil {
		t.Fatal(err)
	}
	slow := func(ctx context.Context, _ string) (map[string]vmm.Disk, error) {
		select {
		case <-time.After(4 * boot):
			return map[string]vmm.Disk{}, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	restore := func(ctx context.Context) error {
		state, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer state.Close()
		vm, err := f.Restore(ctx, Saved{State: state, Disks: slow})
		if err == nil {
			err = f.Remove(ctx, vm.Machine.ID())
		}
		return err
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := restore(ctx); err != nil {
		t.Errorf("with a minute: %v", err)
	}
	if err := restore(context.WithoutCancel(ctx)); err == nil {
		t.Error("without a deadline it has more time than a boot")
	}
}
