package flow

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
)

var errBroken = errors.New("broken")

// script makes steps that write what happens into a log.
type script struct{ log []string }

func (s *script) step(name string, doErr, undoErr error) Step {
	return Step{
		Name: name,
		Do: func(context.Context) error {
			s.log = append(s.log, "do "+name)
			return doErr
		},
		Undo: func(context.Context) error {
			s.log = append(s.log, "undo "+name)
			return undoErr
		},
	}
}

func TestRunUndoesInReverse(t *testing.T) {
	var s script
	err := Run(t.Context(), "make thing", s.step("one", nil, nil), s.step("two", nil, nil), s.step("three", errBroken, nil))
	if !errors.Is(err, errBroken) || !strings.HasPrefix(err.Error(), "three: ") {
		t.Errorf("error = %v, want broken with the step's name before it", err)
	}
	want := []string{"do one", "do two", "do three", "undo two", "undo one"}
	if !reflect.DeepEqual(s.log, want) {
		t.Errorf("log = %v, want %v", s.log, want)
	}
}

func TestRunKeepsUndoErrors(t *testing.T) {
	var s script
	stuck := errors.New("stuck")
	err := Run(t.Context(), "make thing", s.step("one", nil, stuck), s.step("two", nil, nil), s.step("three", errBroken, nil))
	if !errors.Is(err, errBroken) || !errors.Is(err, stuck) {
		t.Errorf("error = %v, want both the cause and the undo that failed", err)
	}
	if got := s.log[len(s.log)-1]; got != "undo one" {
		t.Errorf("last = %q: an undo that fails must not stop the others", got)
	}
}

func TestRunUndoesAfterCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	undone := false
	err := Run(ctx, "make thing",
		Step{Name: "one", Do: func(context.Context) error { cancel(); return nil }, Undo: func(ctx context.Context) error {
			undone = true
			return ctx.Err()
		}},
		Step{Name: "two", Do: func(context.Context) error { t.Error("step two ran after the cancel"); return nil }})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v, want canceled", err)
	}
	if !undone {
		t.Error("step one was not undone")
	}
}

type watcher struct{ seen []string }

func (w *watcher) StepBegins(flow, step string) { w.seen = append(w.seen, flow+"/"+step+" begins") }

func (w *watcher) StepEnds(flow, step string, _ time.Duration, err error) {
	end := " ends"
	if err != nil {
		end = " fails"
	}
	w.seen = append(w.seen, flow+"/"+step+end)
}

func TestObserverSeesSteps(t *testing.T) {
	var s script
	var w watcher
	_ = Run(WithObserver(t.Context(), &w), "run", s.step("one", nil, nil), s.step("two", errBroken, nil))
	want := []string{"run/one begins", "run/one ends", "run/two begins", "run/two fails"}
	if !reflect.DeepEqual(w.seen, want) {
		t.Errorf("seen = %v, want %v", w.seen, want)
	}
}

// recorder is a Tracer that writes down paths of spans, with what they ended with.
type recorder struct{ log []string }

type pathKey struct{}

func (r *recorder) Begin(ctx context.Context, flow, step string) (context.Context, func(error)) {
	name := step
	if step == "" {
		name = "[" + flow + "]"
	}
	above, _ := ctx.Value(pathKey{}).(string)
	path := above + "/" + name
	return context.WithValue(ctx, pathKey{}, path), func(err error) {
		if err != nil {
			path += " fails"
		}
		r.log = append(r.log, path)
	}
}

func TestTracerSeesFlowsWithinSteps(t *testing.T) {
	var s script
	var r recorder
	inner := Step{Name: "inner", Do: func(ctx context.Context) error {
		return Run(ctx, "inside", s.step("deep", nil, nil), s.step("broken", errBroken, nil))
	}}
	_ = Run(WithTracer(t.Context(), &r), "outside", s.step("one", nil, nil), inner)
	want := []string{
		"/[outside]/one",
		"/[outside]/inner/[inside]/deep",
		"/[outside]/inner/[inside]/broken fails",
		"/[outside]/inner/[inside]/undo deep",
		"/[outside]/inner/[inside] fails",
		"/[outside]/inner fails",
		"/[outside]/undo one",
		"/[outside] fails",
	}
	if !reflect.DeepEqual(r.log, want) {
		t.Errorf("spans = %q, want %q", r.log, want)
	}
}
