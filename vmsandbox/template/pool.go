package template

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cricket-cri/cricket/runtime/flow"
	"github.com/cricket-cri/cricket/vmsandbox/vmm"
)

// Pool hands out machines. It is safe for concurrent use.
type Pool struct {
	options Options
	// ctx ends with the pool; work counts the goroutines.
	ctx  context.Context
	stop context.CancelFunc
	work sync.WaitGroup
	// slots bounds how many machines are made at once for claims: more would only make
	// each other slower.
	slots chan struct{}
	// wake tells the keeper of the stock that something has changed; it never blocks.
	wake chan struct{}

	mu      sync.Mutex
	started bool
	closed  bool
	parked  []*VM
	waiters []*waiter
	// makers is how many goroutines make a machine for a claim, never fewer than waiters.
	makers int
	// making are the machines on their way to the stock, with the priority to go back to.
	making map[vmm.Machine]int
	image  *image
	// building is closed when the template under way is made or has failed; nil if none is.
	building chan struct{}
	template attempts // to make a template
	stock    attempts // to fill the stock
	// leftover are machines that nobody has and that could not be removed yet.
	leftover map[string]bool
	removal  attempts // to remove those
	// broken counts clones in a row that did not come to life.
	broken int
	stats  Stats
}

// waiter is a claim that nothing was in stock for.
type waiter struct{ ch chan result }

type result struct {
	vm  *VM
	err error
}

// New returns a pool that does nothing yet.
func New(o Options) (*Pool, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.Dir, 0o711); err != nil {
		return nil, fmt.Errorf("make directory of machines: %w", err)
	}
	ctx := context.Background()
	if o.Trace != nil {
		ctx = flow.WithTracer(ctx, o.Trace)
	}
	ctx, stop := context.WithCancel(ctx)
	return &Pool{
		options: o, ctx: ctx, stop: stop,
		slots: make(chan struct{}, max(2, runtime.NumCPU())), wake: make(chan struct{}, 1),
		making: map[vmm.Machine]int{}, leftover: map[string]bool{},
	}, nil
}

// Start removes every machine but those to keep, which belong to pods, and begins to make
// a template and the stock. It returns the errors of the removals; the pool works all the
// same.
func (p *Pool) Start(ctx context.Context, keep []string) error {
	err := p.reconcile(ctx, keep)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.started || p.closed {
		return err
	}
	p.started = true
	if !p.options.Unshared {
		p.building = make(chan struct{}) // claims wait for it from now on
	}
	p.work.Go(p.keep)
	return err
}

// Close ends the making of machines, removes those that nobody has claimed, and lets go
// of the template. Claimed machines go on.
func (p *Pool) Close() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.stop()
	p.work.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), p.options.Clone)
	defer cancel()
	var errs []error
	for vm := p.take(); vm != nil; vm = p.take() {
		errs = append(errs, p.discard(ctx, vm))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forget(p.image)
	return errors.Join(errs...)
}

const (
	// aliveTime is how long a parked machine may take to show that it is alive.
	aliveTime = 2 * time.Second
	// stockTries is how many parked machines a claim tries: if they do not answer, the next
	// may not either.
	stockTries = 2
)

// Claim returns a machine that runs and has not been told who it is. It is the caller's
// until Remove.
func (p *Pool) Claim(ctx context.Context) (*VM, error) {
	for range stockTries {
		vm := p.take()
		if vm == nil {
			break
		}
		err := p.wakeUp(ctx, vm)
		if err == nil {
			p.served(Parked, vm)
			return vm, nil
		}
		if ctx.Err() != nil { // it is not the machine's fault
			p.remove(vm)
			return nil, fmt.Errorf("claim machine: %w", ctx.Err())
		}
		p.spoiled(vm, err)
	}
	vm, err := p.demand(ctx)
	if err != nil {
		return nil, fmt.Errorf("claim machine: %w", err)
	}
	p.served(vm.Origin, vm)
	return vm, nil
}

// take takes the machine out of the stock that was parked last: its caches are the
// warmest.
func (p *Pool) take() *VM {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.parked) == 0 {
		return nil
	}
	vm := p.parked[len(p.parked)-1]
	p.parked = p.parked[:len(p.parked)-1]
	close(vm.left)
	p.kick()
	return vm
}

// wakeUp makes a parked machine one that can be claimed.
func (p *Pool) wakeUp(ctx context.Context, vm *VM) error {
	if vm.dead() {
		return fmt.Errorf("machine died while it was parked: %w", errdefs.ErrUnavailable)
	}
	ctx, cancel := context.WithTimeout(ctx, aliveTime)
	defer cancel()
	if vm.low {
		setPriority(vm.Machine.Pid(), vm.nice)
		vm.low = false
	}
	if vm.paused {
		if err := vm.Machine.Resume(ctx); err != nil {
			return fmt.Errorf("resume machine: %w", err)
		}
		vm.paused = false
	}
	return vm.Ping(ctx)
}

// demand has a machine made and waits for whichever is ready first.
func (p *Pool) demand(ctx context.Context) (*VM, error) {
	w := &waiter{ch: make(chan result, 1)}
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, fmt.Errorf("no machines any more: %w", errdefs.ErrUnavailable)
	}
	p.waiters = append(p.waiters, w)
	p.makers++
	for m, nice := range p.making {
		setPriority(m.Pid(), nice) // somebody waits for it now
	}
	p.work.Go(func() { p.supply(context.WithoutCancel(ctx)) })
	p.mu.Unlock()
	select {
	case r := <-w.ch:
		return r.vm, r.err
	case <-ctx.Done():
		p.withdraw(w)
		return nil, ctx.Err()
	}
}

// withdraw takes back a claim that nobody waits for. What was made for it goes to another
// or into the stock.
func (p *Pool) withdraw(w *waiter) {
	p.mu.Lock()
	i := slices.Index(p.waiters, w)
	if i >= 0 {
		p.waiters = slices.Delete(p.waiters, i, i+1)
	}
	closed := p.closed
	if i < 0 && !closed {
		p.work.Add(1)
	}
	p.mu.Unlock()
	if i >= 0 {
		return
	}
	r := <-w.ch
	switch {
	case closed && r.vm != nil:
		p.remove(r.vm)
	case !closed:
		go func() {
			defer p.work.Done()
			if r.vm != nil {
				p.storeLeft(p.ctx, r.vm)
			}
		}()
	}
}

// supply makes one machine for those who wait.
func (p *Pool) supply(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(p.ctx, cancel)()
	vm, err := p.make(ctx)
	if err != nil && p.ctx.Err() != nil {
		err = fmt.Errorf("no machines any more: %w: %w", errdefs.ErrUnavailable, err)
	}
	p.mu.Lock()
	p.makers--
	var w *waiter
	if err != nil && len(p.waiters) > p.makers {
		w, p.waiters = p.waiters[0], p.waiters[1:]
	}
	p.kick()
	p.mu.Unlock()
	switch {
	case w != nil:
		w.ch <- result{err: err}
	case err != nil:
		p.options.Log.Warn("machine was not made", "err", err)
	default:
		p.storeLeft(ctx, vm)
	}
}

// make makes a machine for a claim: a clone, or else one that is booted.
func (p *Pool) make(ctx context.Context) (*VM, error) {
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	img, err := p.acquire(ctx)
	if err != nil {
		return nil, err
	}
	if img != nil {
		defer p.release(img)
		vm, err := p.clone(ctx, img, false, nil)
		p.tried(img, err)
		if err == nil || ctx.Err() != nil {
			return vm, err
		}
		p.options.Log.Warn("clone does not work, boot a machine instead", "err", err)
	}
	return p.boot(ctx, false, nil)
}

// offer gives a machine that runs to whoever has waited longest.
func (p *Pool) offer(vm *VM) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.waiters) == 0 {
		return false
	}
	w := p.waiters[0]
	p.waiters = p.waiters[1:]
	if vm.low {
		setPriority(vm.Machine.Pid(), vm.nice)
		vm.low = false
	}
	w.ch <- result{vm: vm} // it has room for one
	return true
}

// kick wakes the keeper. The caller need not hold p.mu.
func (p *Pool) kick() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}
