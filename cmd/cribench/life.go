package main

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/cricket-cri/cricket/cmd/cribench/figures"
)

// measureStart leads the lives of pods one after the other.
func measureStart(ctx context.Context, s *session) error {
	life := func(b *bench, turn int) error {
		m := b.meter("start")
		m.off = turn < s.o.warmUp
		return b.life(ctx, m)
	}
	all := s.o.warmUp + s.o.rounds
	if !s.o.blocks {
		return s.turns(ctx, all, life)
	}
	return s.each(ctx, "all rounds", func(b *bench) error {
		for turn := range all {
			if err := life(b, turn); err != nil {
				return err
			}
		}
		return nil
	})
}

// life leads one pod from its start to its end.
func (b *bench) life(ctx context.Context, m meter) error {
	p := b.newPod()
	defer p.remove(ctx)
	if err := p.start(ctx, m); err != nil {
		return err
	}
	if err := p.ready(ctx); err != nil {
		return err
	}
	return p.stop(ctx, m, grace)
}

// execsPerTurn are as many as a pod with three probes would have.
const execsPerTurn = 3

// measureExec runs a program again and again in a container of each endpoint.
func measureExec(ctx context.Context, s *session) error {
	defer s.retire(ctx)
	return s.turns(ctx, s.o.warmUp+s.o.rounds, func(b *bench, turn int) error {
		m := b.meter("exec")
		m.off = turn < s.o.warmUp
		p, err := b.stand(ctx, nil)
		if err != nil {
			return err
		}
		for range execsPerTurn {
			if err := p.exec(ctx, m); err != nil {
				return err
			}
		}
		return nil
	})
}

// stand returns the endpoint's pod of this section, started if it is not there yet.
func (b *bench) stand(ctx context.Context, change func(*pod) error) (*pod, error) {
	if b.standing != nil {
		return b.standing, nil
	}
	p := b.newPod()
	if change != nil {
		if err := change(p); err != nil {
			return nil, err
		}
	}
	b.standing = p
	return p, p.start(ctx, silent())
}

// retire removes the pods that stand.
func (s *session) retire(ctx context.Context) {
	for _, b := range s.benches {
		if b.standing != nil {
			b.standing.remove(ctx)
			b.standing = nil
		}
	}
}

// measureParallel starts batches of pods, so many at once, and stops them.
func measureParallel(ctx context.Context, s *session) error {
	for _, n := range s.o.parallel {
		what := func(batch int) string { return fmt.Sprintf("%d at once, batch %d of %d", n, batch+1, s.o.batches) }
		for batch := range s.o.batches {
			if err := s.each(ctx, what(batch), func(b *bench) error { return b.batch(ctx, n) }); err != nil {
				return err
			}
		}
	}
	return nil
}

// batch starts pods, n at once, and stops them when all are there.
func (b *bench) batch(ctx context.Context, n int) error {
	m := b.meter(fmt.Sprintf("parallel-%d", n))
	all := b.newPods(max(n, b.o.batch))
	defer all.remove(ctx)
	rate := func(name string, f func(context.Context, *pod) error) error {
		began := time.Now()
		if err := all.each(ctx, n, f); err != nil {
			return err
		}
		b.result.Add(m.section, name, figures.PerSec, float64(len(all))/time.Since(began).Seconds())
		return nil
	}
	if err := rate("pods started", func(ctx context.Context, p *pod) error { return p.start(ctx, m) }); err != nil {
		return err
	}
	if err := all.each(ctx, n, func(ctx context.Context, p *pod) error { return p.ready(ctx) }); err != nil {
		return err
	}
	return rate("pods stopped", func(ctx context.Context, p *pod) error { return p.stop(ctx, m, grace) })
}

// measureChurn creates and removes pods without a pause. Work that a runtime puts off comes
// back to it here, and a container is killed as soon as it runs.
func measureChurn(ctx context.Context, s *session) error {
	return s.each(ctx, s.o.churn.String(), func(b *bench) error { return b.churn(ctx) })
}

func (b *bench) churn(ctx context.Context) error {
	m := b.meter("churn")
	began := time.Now()
	var lives atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	for range b.o.workers {
		group.Go(func() error {
			for time.Since(began) < b.o.churn {
				if err := b.short(ctx, m); err != nil {
					return err
				}
				lives.Add(1)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	b.result.Add(m.section, "pods created and removed", figures.PerSec, float64(lives.Load())/time.Since(began).Seconds())
	return nil
}

// short leads one pod whose container is killed at once.
func (b *bench) short(ctx context.Context, m meter) error {
	p := b.newPod()
	defer p.remove(ctx)
	if err := p.start(ctx, m); err != nil {
		return err
	}
	return p.stop(ctx, m, 0)
}
