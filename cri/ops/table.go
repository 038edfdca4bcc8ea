package ops

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cricket-cri/cricket/runtime/flow"
)

// parkTime is how long the result of an operation waits for a retry, if nobody was
// there to take it.
const parkTime = 5 * time.Minute

// Key names what an operation is about: its kind ("run pod sandbox") and the name that
// only one of its kind can have.
type Key struct{ Kind, Name string }

// Spec describes an operation.
type Spec struct {
	Key Key
	// Digest stands for the content of the request.
	Digest string
	// Budget is how long the operation may take, whatever its callers' deadlines.
	Budget time.Duration
	// Park keeps a result that nobody was there to take, for a retry. It is for what can
	// be done only once (a name is taken then); what can be done again must be: the world
	// may have changed since.
	Park bool
}

// Info is one operation that is under way or whose result waits.
type Info struct {
	Kind  string        `json:"kind"`
	Name  string        `json:"name"`
	Stage string        `json:"stage"` // the step that it is at
	Age   time.Duration `json:"ageNanos"`
	Done  bool          `json:"done"`
}

// Table holds the operations under way. All methods are safe for concurrent use.
type Table struct {
	steps StepTimer
	log   *slog.Logger

	mu       sync.Mutex
	ops      map[Key]*op
	draining bool
	wg       sync.WaitGroup
}

type op struct {
	digest string
	steps  StepTimer
	began  time.Time
	done   chan struct{}
	result any   // valid once done is closed
	err    error // valid once done is closed

	mu      sync.Mutex
	stage   string
	waiters int
	parked  *time.Timer
}

// StepTimer is told of every step of every operation that has ended. It may be called
// from several goroutines at once.
type StepTimer func(flow, step string, took time.Duration, err error)

// NewTable makes an empty table. steps may be nil.
func NewTable(log *slog.Logger, steps StepTimer) *Table {
	if steps == nil {
		steps = func(string, string, time.Duration, error) {}
	}
	return &Table{log: log, steps: steps, ops: map[Key]*op{}}
}

// Do runs f as an operation, or joins the one that does already, and returns its
// result. If ctx ends first, the error wraps the context's and names the stage, and the
// operation goes on. Errors of its own: errdefs.ErrAlreadyExists for another request
// under the same name, errdefs.ErrUnavailable while draining.
func Do[T any](ctx context.Context, t *Table, s Spec, f func(ctx context.Context) (T, error)) (T, error) {
	r, err := t.do(ctx, s, func(ctx context.Context) (any, error) { return f(ctx) })
	v, _ := r.(T)
	return v, err
}

func (t *Table) do(ctx context.Context, s Spec, f func(ctx context.Context) (any, error)) (any, error) {
	o, err := t.join(ctx, s, f)
	if err != nil {
		return nil, err
	}
	select {
	case <-o.done:
	case <-ctx.Done():
		if err := t.leave(ctx, o); err != nil {
			return nil, err
		}
	}
	t.take(s.Key, o)
	return o.result, o.err
}

// join finds the operation or starts it, and counts the caller as a waiter.
func (t *Table) join(ctx context.Context, s Spec, f func(ctx context.Context) (any, error)) (*op, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if o := t.ops[s.Key]; o != nil {
		if o.digest != s.Digest {
			return nil, fmt.Errorf("%s: a different request under this name is at stage %q: %w", s.Key.Kind, o.at(), errdefs.ErrAlreadyExists)
		}
		o.mu.Lock()
		o.waiters++
		o.mu.Unlock()
		return o, nil
	}
	if t.draining {
		return nil, fmt.Errorf("%s: the runtime is shutting down: %w", s.Key.Kind, errdefs.ErrUnavailable)
	}
	o := &op{digest: s.Digest, steps: t.steps, began: time.Now(), done: make(chan struct{}), waiters: 1}
	t.ops[s.Key] = o
	run := flow.WithObserver(context.WithoutCancel(ctx), o)
	t.wg.Go(func() { t.run(run, s, o, f) })
	return o, nil
}

// run does the work. The result stays in the table as long as somebody waits for it,
// or until its time is over.
func (t *Table) run(ctx context.Context, s Spec, o *op, f func(ctx context.Context) (any, error)) {
	ctx, cancel := context.WithTimeout(ctx, s.Budget)
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			o.result, o.err = nil, Panicked(t.log, p)
		}
		t.finish(s, o)
	}()
	o.result, o.err = f(ctx)
	if errors.Is(o.err, context.DeadlineExceeded) && ctx.Err() != nil {
		o.err = fmt.Errorf("%w (its budget of %s is spent)", o.err, s.Budget)
	}
}

func (t *Table) finish(s Spec, o *op) {
	t.mu.Lock()
	defer t.mu.Unlock()
	o.mu.Lock()
	defer o.mu.Unlock()
	close(o.done)
	if o.waiters == 0 && o.err != nil {
		t.log.Warn("operation failed with nobody waiting", "kind", s.Key.Kind, "name", s.Key.Name, "error", o.err)
	}
	if o.waiters == 0 && o.err == nil && s.Park {
		o.parked = time.AfterFunc(parkTime, func() { t.take(s.Key, o) })
		return
	}
	delete(t.ops, s.Key) // waiters hold o themselves; a later caller is a new request
}

// take removes an operation whose result was collected, or waited long enough.
func (t *Table) take(k Key, o *op) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ops[k] == o {
		delete(t.ops, k)
	}
	if o.parked != nil {
		o.parked.Stop()
	}
}

// leave counts a waiter out that gave up. It returns nil if the result has come in the
// meantime: that is the better answer, and nobody else may wait for it.
func (t *Table) leave(ctx context.Context, o *op) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	select {
	case <-o.done:
		return nil
	default:
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.waiters--
	return fmt.Errorf("still under way at stage %q, ask again: %w", o.stage, ctx.Err())
}

// Forget drops a result that waits for a retry: its object is gone.
func (t *Table) Forget(k Key) {
	t.mu.Lock()
	o := t.ops[k]
	t.mu.Unlock()
	if o == nil {
		return
	}
	select {
	case <-o.done:
		t.take(k, o)
	default:
	}
}

// Drain refuses new operations and waits for those under way. It returns the context's
// error if that ends first; the operations go on then.
func (t *Table) Drain(ctx context.Context) error {
	t.mu.Lock()
	t.draining = true
	t.mu.Unlock()
	done := make(chan struct{})
	go func() { t.wg.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for operations: %w", ctx.Err())
	}
}

// List shows the operations, the oldest first.
func (t *Table) List() []Info {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := make([]Info, 0, len(t.ops))
	for k, o := range t.ops {
		i := Info{Kind: k.Kind, Name: k.Name, Stage: o.at(), Age: time.Since(o.began)}
		select {
		case <-o.done:
			i.Done = true
		default:
		}
		list = append(list, i)
	}
	slices.SortFunc(list, func(a, b Info) int {
		return strings.Compare(a.Kind+"\x00"+a.Name, b.Kind+"\x00"+b.Name)
	})
	slices.SortStableFunc(list, func(a, b Info) int { return int(b.Age - a.Age) })
	return list
}

func (o *op) at() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.stage
}

// StepBegins implements flow.Observer.
func (o *op) StepBegins(_, step string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.stage = step
}

// StepEnds implements flow.Observer.
func (o *op) StepEnds(flow, step string, took time.Duration, err error) {
	o.steps(flow, step, took, err)
}
