package guest

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cricket-cri/cricket/runtime/monitor"
)

// starter notes what is started.
type starter struct {
	monitor.Executor
	started chan string
}

func (s *starter) Exec(id string, _ *specs.Process, _ [3]*os.File) (monitor.Process, error) {
	s.started <- id
	return monitor.Process{}, nil
}

func (s *starter) Delete(string) error { return nil }

func TestNothingIsStartedInFrozenContainers(t *testing.T) {
	g := &gate{}
	s := &starter{started: make(chan string, 4)}
	x := gated{s, g}
	exec := func(id string) { go func() { _, _ = x.Exec(id, nil, [3]*os.File{}) }() }
	if err := g.close(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if err := g.close(t.Context(), "a"); err != nil {
		t.Fatalf("closed twice: %v", err)
	}
	exec("a")
	exec("b")
	if id := <-s.started; id != "b" {
		t.Fatalf("%s was started", id)
	}
	select {
	case id := <-s.started:
		t.Fatalf("%s was started behind a closed door", id)
	case <-time.After(50 * time.Millisecond):
	}
	g.open("a")
	if id := <-s.started; id != "a" {
		t.Errorf("%s was started", id)
	}
	g.open("a")
	if err := g.close(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	exec("a")
	if err := x.Delete("a"); err != nil {
		t.Fatal(err)
	}
	<-s.started // whoever waited is told by the executor what there is
}

func TestFreezeWaitsForStarts(t *testing.T) {
	g := &gate{}
	d := g.door("a")
	d.starting.RLock()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := g.close(ctx, "a"); err == nil {
		t.Error("the door was closed while a process was started")
	}
	d.starting.RUnlock()
	if err := g.close(t.Context(), "a"); err != nil {
		t.Error(err)
	}
}
