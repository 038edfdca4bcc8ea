package main

import (
	"context"
	"fmt"
	"time"

	"github.com/cricket-cri/cricket/cmd/cribench/figures"
)

// settleTime is how long pods idle before their memory is read.
const settleTime = 5 * time.Second

// measureMemory reads the memory of each endpoint's processes without pods, with few and with
// many, and what processor time they take while the few do nothing.
func measureMemory(ctx context.Context, s *session) error {
	return s.each(ctx, "all pods", func(b *bench) error { return b.memory(ctx) })
}

func (b *bench) memory(ctx context.Context) error {
	few, many := b.endpoint.memoryPods[0], b.endpoint.memoryPods[1]
	base, err := b.settled(ctx)
	if err != nil {
		return err
	}
	b.memorySample("base PSS", base.pss)
	b.memorySample("base RSS", base.rss)
	all := b.newPods(many)
	defer all.remove(ctx)
	if err := all[:few].start(ctx, b.o.workers); err != nil {
		return err
	}
	withFew, err := b.settled(ctx)
	if err != nil {
		return err
	}
	if err := b.idle(ctx, few); err != nil {
		return err
	}
	if err := all[few:].start(ctx, b.o.workers); err != nil {
		return err
	}
	withMany, err := b.settled(ctx)
	if err != nil {
		return err
	}
	b.memorySample(fmt.Sprintf("PSS with %d pods", many), withMany.pss)
	b.memorySample(fmt.Sprintf("RSS with %d pods", many), withMany.rss)
	b.slopes(few, many, withFew, withMany)
	if b.o.use == "" {
		return nil
	}
	return b.used(ctx, all, base)
}

// slopes keeps what one more pod takes, once there are some.
func (b *bench) slopes(few, many int, withFew, withMany usage) {
	for _, s := range []struct {
		name      string
		few, many uint64
	}{
		{"PSS a further pod", withFew.pss, withMany.pss},
		{"RSS a further pod", withFew.rss, withMany.rss},
		{"fall of MemAvailable a further pod", withMany.available, withFew.available},
	} {
		slope := figures.Slope([]figures.Point{{At: float64(few), Value: float64(s.few)}, {At: float64(many), Value: float64(s.many)}})
		b.result.Add("memory", s.name, figures.MiB, slope/mebi)
	}
}

func (b *bench) memorySample(name string, bytes uint64) {
	b.result.Add("memory", name, figures.MiB, float64(bytes)/mebi)
}

// idle keeps how much of a processor the endpoint's processes take while pods do nothing.
func (b *bench) idle(ctx context.Context, n int) error {
	began := time.Now()
	before, err := cpuOf(b.endpoint.processes)
	if err != nil {
		return err
	}
	if err := pause(ctx, b.o.idle); err != nil {
		return err
	}
	after, err := cpuOf(b.endpoint.processes)
	if err != nil {
		return err
	}
	b.result.Add("memory", fmt.Sprintf("idle processor time with %d pods", n), figures.Percent, 100*float64(after-before)/float64(time.Since(began)))
	return nil
}

// used keeps what pods take that have done something, everything shared included.
func (b *bench) used(ctx context.Context, all pods, base usage) error {
	for _, p := range all {
		if err := p.run(ctx, "sh", "-c", b.o.use); err != nil {
			return err
		}
	}
	u, err := b.settled(ctx)
	if err != nil {
		return err
	}
	n := float64(len(all)) * mebi
	b.result.Add("memory", "PSS a pod after use, all that is shared included", figures.MiB, float64(u.pss)/n)
	b.result.Add("memory", "fall of MemAvailable a pod after use", figures.MiB, (float64(base.available)-float64(u.available))/n)
	return nil
}

// settled is the memory of the endpoint's processes when they have come to rest.
func (b *bench) settled(ctx context.Context) (usage, error) {
	if err := pause(ctx, settleTime); err != nil {
		return usage{}, err
	}
	return memoryOf(b.endpoint.processes)
}
