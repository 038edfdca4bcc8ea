// Package flow runs long operations as lists of named steps, each with its undo.
//
// The name of a step is the stage that errors, spans, histograms and `cricket ops`
// show, and it is a failpoint: in a build with the tag failpoint every step can be
// made to fail or to kill the process (see failpoint.go), so a new step is covered by
// the crash tests without anyone remembering.
package flow

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// UndoBudget is how long the undo of a failed flow may take in all. Undo goes on when
// the caller has given up: what was made must be unmade.
const UndoBudget = 30 * time.Second

// Step is one named part of a flow.
type Step struct {
	// Name is a short verb phrase, unique in its flow: "add network".
	Name string
	// Do does the work. If it fails, it leaves nothing behind itself.
	Do func(ctx context.Context) error
	// Undo takes back what Do did; nil if there is nothing to take back. It must
	// bear being called when the thing is gone already.
	Undo func(ctx context.Context) error
}

// Observer is told of every step that begins and ends. It may be called from several
// goroutines at once if flows of one context run at once.
type Observer interface {
	StepBegins(flow, step string)
	StepEnds(flow, step string, took time.Duration, err error)
}

type observerKey struct{}

// WithObserver returns a context whose flows report to o.
func WithObserver(ctx context.Context, o Observer) context.Context {
	return context.WithValue(ctx, observerKey{}, o)
}

// Tracer opens spans: one around each flow, one around each of its steps, within that, and
// one around each undo. It may be called from several goroutines at once.
type Tracer interface {
	// Begin opens a span below the one in ctx, if there is one, and returns a context with
	// the new one. The span is of a flow as a whole where step is empty. end closes it, with
	// the error of what it stands for; it is called once.
	Begin(ctx context.Context, flow, step string) (with context.Context, end func(error))
}

type tracerKey struct{}

// WithTracer returns a context whose flows open spans with t.
func WithTracer(ctx context.Context, t Tracer) context.Context {
	return context.WithValue(ctx, tracerKey{}, t)
}

// trace opens a span if somebody wants them.
func trace(ctx context.Context, flow, step string) (context.Context, func(error)) {
	if t, ok := ctx.Value(tracerKey{}).(Tracer); ok {
		return t.Begin(ctx, flow, step)
	}
	return ctx, func(error) {}
}

// Run does the steps in order. If one fails, those done before it are undone in
// reverse order, and the error is the step's, with its name before it; an undo that
// fails is joined to it.
func Run(ctx context.Context, name string, steps ...Step) (err error) {
	ctx, end := trace(ctx, name, "")
	defer func() { end(err) }()
	for i, s := range steps {
		if err := do(ctx, name, s); err != nil {
			err = fmt.Errorf("%s: %w", s.Name, err)
			return errors.Join(append([]error{err}, undo(ctx, name, steps[:i])...)...)
		}
	}
	return nil
}

func do(ctx context.Context, flow string, s Step) (err error) {
	ctx, end := trace(ctx, flow, s.Name)
	defer func() { end(err) }()
	if o, ok := ctx.Value(observerKey{}).(Observer); ok {
		o.StepBegins(flow, s.Name)
		began := time.Now()
		defer func() { o.StepEnds(flow, s.Name, time.Since(began), err) }()
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := failpoint(flow, s.Name, Before); err != nil {
		return err
	}
	if err := s.Do(ctx); err != nil {
		return err
	}
	if err := failpoint(flow, s.Name, After); err != nil {
		if s.Undo != nil {
			err = errors.Join(err, s.Undo(ctx))
		}
		return err
	}
	return nil
}

func undo(ctx context.Context, flow string, done []Step) []error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), UndoBudget)
	defer cancel()
	var errs []error
	for i := len(done) - 1; i >= 0; i-- {
		if done[i].Undo == nil {
			continue
		}
		if err := undoOne(ctx, flow, done[i]); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

func undoOne(ctx context.Context, flow string, s Step) error {
	ctx, end := trace(ctx, flow, "undo "+s.Name)
	err := s.Undo(ctx)
	end(err)
	if err != nil {
		return fmt.Errorf("undo %s: %w", s.Name, err)
	}
	return nil
}

// Moment says on which side of a step's work a failpoint lies.
type Moment string

// The two sides of a step.
const (
	Before Moment = "before"
	After  Moment = "after"
)
