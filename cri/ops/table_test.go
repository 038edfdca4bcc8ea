package ops

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cricket-cri/cricket/runtime/flow"
)

var spec = Spec{Key: Key{"make", "thing"}, Digest: "d", Budget: time.Minute, Park: true}

func newTestTable() *Table { return NewTable(slog.New(slog.DiscardHandler), nil) }

func TestCallersJoin(t *testing.T) {
	table, release := newTestTable(), make(chan struct{})
	var runs int
	var wg sync.WaitGroup
	began := make(chan struct{})
	f := func(context.Context) (int, error) { runs++; close(began); <-release; return 7, nil }
	for range 5 {
		wg.Go(func() {
			if v, err := Do(t.Context(), table, spec, f); v != 7 || err != nil {
				t.Errorf("got %d, %v", v, err)
			}
		})
	}
	<-began
	for joined(table) < 5 {
		time.Sleep(time.Millisecond)
	}
	close(release)
	wg.Wait()
	if runs != 1 || len(table.List()) != 0 {
		t.Errorf("ran %d times, left %v", runs, table.List())
	}
}

func joined(table *Table) int {
	table.mu.Lock()
	defer table.mu.Unlock()
	o := table.ops[spec.Key]
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.waiters
}

// leave starts an operation whose only caller gives up at once.
func leave(t *testing.T, table *Table, f func(context.Context) (int, error)) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err := Do(ctx, table, spec, f)
	return err
}

func TestResultWaitsForRetry(t *testing.T) {
	table, release := newTestTable(), make(chan struct{})
	err := leave(t, table, func(ctx context.Context) (v int, err error) {
		err = flow.Run(ctx, "make", flow.Step{Name: "wait for it", Do: func(ctx context.Context) error { <-release; return ctx.Err() }})
		return 7, err
	})
	if !errors.Is(err, context.DeadlineExceeded) || err.Error() != `still under way at stage "wait for it", ask again: context deadline exceeded` {
		t.Errorf("error: %v", err)
	}
	close(release)
	for !table.List()[0].Done {
		time.Sleep(time.Millisecond)
	}
	other := spec
	other.Digest = "e"
	never := func(context.Context) (int, error) { t.Error("ran again"); return 0, nil }
	if _, err := Do(t.Context(), table, other, never); !errdefs.IsAlreadyExists(err) {
		t.Errorf("other request: %v", err)
	}
	if v, err := Do(t.Context(), table, spec, never); v != 7 || err != nil {
		t.Errorf("retry: %d, %v", v, err)
	}
	if l := table.List(); len(l) != 0 {
		t.Errorf("left: %v", l)
	}
}

// What can be done again is done again: an image that was pulled for a caller who left
// may have been removed before the retry.
func TestRepeatableResultDoesNotWait(t *testing.T) {
	table, release := newTestTable(), make(chan struct{})
	again := spec
	again.Park = false
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := Do(ctx, table, again, func(context.Context) (int, error) { <-release; return 7, nil }); err == nil {
		t.Fatal("the first caller did not leave")
	}
	close(release)
	for len(table.List()) != 0 {
		time.Sleep(time.Millisecond)
	}
	if v, err := Do(t.Context(), table, again, func(context.Context) (int, error) { return 8, nil }); v != 8 || err != nil {
		t.Errorf("retry: %d, %v", v, err)
	}
}

func TestFailureDoesNotWait(t *testing.T) {
	table, release := newTestTable(), make(chan struct{})
	_ = leave(t, table, func(context.Context) (int, error) { <-release; return 0, errdefs.ErrUnavailable })
	close(release)
	for len(table.List()) != 0 {
		time.Sleep(time.Millisecond)
	}
	if v, err := Do(t.Context(), table, spec, func(context.Context) (int, error) { return 8, nil }); v != 8 || err != nil {
		t.Errorf("retry: %d, %v", v, err)
	}
}

func TestForget(t *testing.T) {
	table, release := newTestTable(), make(chan struct{})
	_ = leave(t, table, func(context.Context) (int, error) { <-release; return 7, nil })
	table.Forget(spec.Key) // under way: stays
	close(release)
	for l := table.List(); !l[0].Done; l = table.List() {
		time.Sleep(time.Millisecond)
	}
	table.Forget(spec.Key)
	if l := table.List(); len(l) != 0 {
		t.Errorf("left: %v", l)
	}
}

func TestPanicAndBudget(t *testing.T) {
	table := newTestTable()
	_, err := Do(t.Context(), table, spec, func(context.Context) (int, error) { panic("oh") })
	if !errdefs.IsInternal(err) {
		t.Errorf("panic: %v", err)
	}
	short := spec
	short.Budget = time.Millisecond
	_, err = Do(t.Context(), table, short, func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, ctx.Err() })
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("budget: %v", err)
	}
}

func TestDrain(t *testing.T) {
	table, release := newTestTable(), make(chan struct{})
	_ = leave(t, table, func(context.Context) (int, error) { <-release; return 7, nil })
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := table.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("drain: %v", err)
	}
	other := Spec{Key: Key{"make", "other"}, Budget: time.Minute}
	if _, err := Do(t.Context(), table, other, func(context.Context) (int, error) { return 0, nil }); !errdefs.IsUnavailable(err) {
		t.Errorf("new operation: %v", err)
	}
	close(release)
	if err := table.Drain(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestLocks(t *testing.T) {
	l := NewLocks()
	one, _ := l.Shared(t.Context(), "a")
	two, err := l.Shared(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := l.Exclusive(ctx, "a"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("exclusive beside shared: %v", err)
	}
	if _, err := l.Exclusive(t.Context(), "b"); err != nil {
		t.Error(err)
	}
	one()
	two()
	if l.Held("a") || !l.Held("b") {
		t.Error("who is held is wrong")
	}
	alone, err := l.Exclusive(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	alone()
}
