package template

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cricket-cri/cricket/vmsandbox/vmm"
)

// attempts paces what fails.
type attempts struct {
	failures int // in a row
	after    time.Time
	last     string // the last error
}

// Pauses after a failure: doubled each time.
const (
	firstPause = time.Second
	lastPause  = 5 * time.Minute
)

func (a *attempts) failed(err error) {
	pause := lastPause
	if a.failures < 16 {
		pause = min(firstPause<<a.failures, lastPause)
	}
	a.failures++
	a.after = time.Now().Add(pause)
	a.last = err.Error()
}

// brokenClones is how many clones in a row may fail before the template is taken for the
// cause.
const brokenClones = 3

// keep keeps a template and the stock until the pool is closed.
func (p *Pool) keep() {
	for p.ctx.Err() == nil {
		todo, wait := p.next()
		if todo != nil {
			todo()
			continue
		}
		timer := time.NewTimer(wait)
		select {
		case <-p.ctx.Done():
		case <-p.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
	p.mu.Lock()
	p.built(nil, context.Canceled)
	p.mu.Unlock()
}

// next says what is to be done, or how long nothing is.
func (p *Pool) next() (todo func(), wait time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now, idle := time.Now(), lastPause
	if len(p.leftover) > 0 {
		if idle = p.removal.after.Sub(now); idle <= 0 {
			return p.removeLeftover, 0
		}
	}
	if !p.options.Unshared && p.image == nil {
		if wait := p.template.after.Sub(now); wait > 0 {
			return nil, min(wait, idle)
		}
		if p.building == nil {
			p.building = make(chan struct{})
		}
		return p.renew, 0
	}
	// Claims that wait have the processors to themselves.
	if p.enough(nil) || p.makers > 0 {
		return nil, idle
	}
	if wait := p.stock.after.Sub(now); wait > 0 {
		return nil, min(wait, idle)
	}
	return p.refill, 0
}

// renew makes the template.
func (p *Pool) renew() {
	img, err := p.build(p.ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.built(img, err)
}

// built ends the wait for a template. The caller holds p.mu.
func (p *Pool) built(img *image, err error) {
	log := p.options.Log
	switch {
	case img != nil:
		p.image, p.template, p.broken = img, attempts{}, 0
		p.stats.TemplateTime = img.took
		p.stats.Templates++
		log.Info("made template", "took", img.took)
	case p.ctx.Err() == nil:
		p.template.failed(err)
		log.Warn("no template, machines are booted until there is one", "err", err, "retry", time.Until(p.template.after).Round(time.Second))
	}
	if p.building != nil {
		close(p.building)
		p.building = nil
	}
}

// acquire returns the template, after a wait for one that is being made; nil if there is
// none. One of another hypervisor than today's is made again.
func (p *Pool) acquire(ctx context.Context) (*image, error) {
	if p.options.Unshared {
		return nil, nil
	}
	version, err := p.options.Hypervisor.Version(ctx)
	if err != nil {
		return nil, err
	}
	for {
		p.mu.Lock()
		if img := p.image; img != nil && img.version == version {
			img.users++
			p.mu.Unlock()
			return img, nil
		}
		if p.image != nil {
			p.options.Log.Info("hypervisor has changed, make template again", "was", p.image.version, "is", version)
			p.forget(p.image)
			p.building = make(chan struct{})
			p.kick()
		}
		building := p.building
		p.mu.Unlock()
		if building == nil {
			return nil, nil
		}
		select {
		case <-building:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		// Once is enough: what has just been made is of this version, or there is none.
		if version, err = p.options.Hypervisor.Version(ctx); err != nil {
			return nil, err
		}
	}
}

func (p *Pool) release(img *image) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.releaseLocked(img)
}

func (p *Pool) releaseLocked(img *image) {
	if img.users--; img.users == 0 {
		img.close()
	}
}

// forget lets go of a template, if it is still the pool's. The caller holds p.mu.
func (p *Pool) forget(img *image) {
	if p.image == img && img != nil {
		p.image = nil
		p.releaseLocked(img)
	}
}

// tried remembers how a clone of a template fared.
func (p *Pool) tried(img *image, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil {
		p.broken = 0
		return
	}
	if p.ctx.Err() != nil {
		return
	}
	p.stats.BrokenClones++
	if p.broken++; p.broken >= brokenClones && p.image == img {
		p.options.Log.Warn("clones do not work, make template again", "failures", p.broken, "err", err)
		p.template.failed(fmt.Errorf("%d clones in a row failed: %w", p.broken, err))
		p.forget(img)
		p.kick()
	}
}

// refill makes one machine for the stock, with low priority.
func (p *Pool) refill() {
	var machine vmm.Machine
	begun := func(m vmm.Machine, nice int) {
		machine = m
		p.mu.Lock()
		defer p.mu.Unlock()
		p.making[m] = nice
		if len(p.waiters) > 0 {
			setPriority(m.Pid(), nice)
		}
	}
	began := time.Now()
	vm, err := p.makeForStock(p.ctx, begun)
	if err == nil {
		err = p.store(p.ctx, vm)
	}
	p.done(machine)
	p.mu.Lock()
	defer p.mu.Unlock()
	if slices.Contains(p.parked, vm) {
		p.stats.Refills++
		p.stats.RefillTime += time.Since(began)
	}
	if err != nil && p.ctx.Err() == nil {
		p.stock.failed(err)
		p.options.Log.Warn("machine was not parked", "err", err, "retry", time.Until(p.stock.after).Round(time.Second))
	}
}

func (p *Pool) makeForStock(ctx context.Context, begun func(vmm.Machine, int)) (*VM, error) {
	if p.options.Unshared {
		return p.boot(ctx, true, begun)
	}
	img, err := p.acquire(ctx)
	if err != nil {
		return nil, err
	}
	if img == nil {
		return nil, errors.New("no template") // it has just gone: next looks again
	}
	defer p.release(img)
	vm, err := p.clone(ctx, img, true, begun)
	if !errors.Is(err, context.DeadlineExceeded) { // it may just not have had its turn
		p.tried(img, err)
	}
	return vm, err
}

// store hands a machine that runs to someone who waits, or warms it and parks it; if
// there is no room for it, it is removed. The machine is the pool's afterwards, also if
// there is an error.
func (p *Pool) store(ctx context.Context, vm *VM) error {
	if p.offer(vm) {
		return nil
	}
	if !p.reserve(vm) {
		p.remove(vm)
		return nil
	}
	defer p.done(vm.Machine)
	err := p.live(ctx, vm)
	if err != nil {
		p.remove(vm)
		return fmt.Errorf("warm up machine: %w", err)
	}
	if p.offer(vm) {
		return nil
	}
	pausing, cancel := context.WithTimeout(ctx, p.options.Clone)
	defer cancel()
	if err := vm.Machine.Pause(pausing); err != nil {
		p.remove(vm)
		return fmt.Errorf("pause machine: %w", err)
	}
	vm.paused = true
	return p.park(ctx, vm)
}

// storeLeft is store for a machine that was made for a claim.
func (p *Pool) storeLeft(ctx context.Context, vm *VM) {
	if err := p.store(ctx, vm); err != nil && p.ctx.Err() == nil {
		p.options.Log.Warn("machine was not parked", "machine", vm.Machine.ID(), "err", err)
	}
}

// enough reports whether the stock is full when what is on its way has arrived, m left
// out. The caller holds p.mu.
func (p *Pool) enough(m vmm.Machine) bool {
	coming := len(p.making)
	if _, ok := p.making[m]; ok {
		coming--
	}
	return p.closed || len(p.parked)+coming >= p.options.Size
}

// reserve takes a place in the stock for a machine that is to be warmed, unless there is
// none. From then on nobody waits for it.
func (p *Pool) reserve(vm *VM) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.enough(vm.Machine) {
		return false
	}
	if !vm.low {
		vm.nice, vm.low = lower(vm.Machine.Pid()), true
	}
	p.making[vm.Machine] = vm.nice
	return true
}

// done ends what reserve, or the begin of a machine for the stock, has noted.
func (p *Pool) done(m vmm.Machine) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.making, m)
	p.kick()
}

// park puts a paused machine into the stock. If someone has begun to wait meanwhile, it is
// woken for them.
func (p *Pool) park(ctx context.Context, vm *VM) error {
	p.mu.Lock()
	switch {
	case p.closed || len(p.parked) >= p.options.Size:
		p.mu.Unlock()
		p.remove(vm)
		return nil
	case len(p.waiters) == 0:
		p.parked = append(p.parked, vm)
		p.work.Go(func() { p.watch(vm) })
		p.mu.Unlock()
		return nil
	}
	p.mu.Unlock()
	if err := p.wakeUp(ctx, vm); err != nil {
		p.remove(vm)
		return err
	}
	if p.offer(vm) {
		return nil
	}
	return p.store(ctx, vm) // they were served by another
}

// watch replaces a machine that dies while it is parked.
func (p *Pool) watch(vm *VM) {
	select {
	case <-vm.left:
		return
	case <-p.ctx.Done():
		return
	case <-vm.Machine.Done():
	case <-vm.Session.Done():
	}
	p.mu.Lock()
	i := slices.Index(p.parked, vm)
	if i >= 0 {
		p.parked = slices.Delete(p.parked, i, i+1)
	}
	p.mu.Unlock()
	if i >= 0 {
		p.spoiled(vm, errors.New("it died while it was parked"))
	}
}

// spoiled removes a machine of the stock that cannot be used. A stock whose machines keep
// dying is refilled with growing pauses.
func (p *Pool) spoiled(vm *VM, err error) {
	p.options.Log.Warn("parked machine is unusable", "machine", vm.Machine.ID(), "err", err)
	p.mu.Lock()
	p.stats.Spoiled++
	p.stock.failed(err)
	p.mu.Unlock()
	p.remove(vm)
	p.kick()
}

// served counts a claim.
func (p *Pool) served(origin Origin, vm *VM) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stats.Claims == nil {
		p.stats.Claims = map[Origin]uint64{}
	}
	p.stats.Claims[origin]++
	if origin == Parked {
		p.stock = attempts{}
	}
	vm.Origin = origin
}
