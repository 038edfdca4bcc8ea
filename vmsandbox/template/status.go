package template

import (
	"fmt"
	"maps"
	"time"
)

// Stats count since the pool was made.
type Stats struct {
	// Claims by where the machine came from.
	Claims map[Origin]uint64
	// Templates that were made, and how long the last one took.
	Templates    uint64
	TemplateTime time.Duration
	// Refills are machines that were made for the stock and parked, RefillTime how long all
	// of them took together.
	Refills    uint64
	RefillTime time.Duration
	// BrokenClones did not come to life; Spoiled machines became unusable while they were
	// parked.
	BrokenClones, Spoiled uint64
}

// Status says how the pool is. It is a snapshot.
type Status struct {
	// Ready: machines are cloned. Without, claims take as long as a boot. Unshared pools
	// are always ready.
	Ready bool
	// Reason is one sentence for people, also when the pool is ready.
	Reason string
	// Parked of Size machines are in stock.
	Parked, Size int
	Stats        Stats
}

// Status returns a snapshot.
func (p *Pool) Status() Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := Status{Parked: len(p.parked), Size: p.options.Size, Stats: p.stats}
	s.Stats.Claims = maps.Clone(p.stats.Claims)
	switch {
	case p.closed:
		s.Reason = "closed"
	case p.options.Unshared:
		s.Ready, s.Reason = true, "machines are booted and share no memory"
	case p.image != nil:
		s.Ready, s.Reason = true, fmt.Sprintf("template made in %s", p.image.took.Round(time.Millisecond))
	case p.template.failures > 0:
		s.Reason = fmt.Sprintf("no template after %d attempts, machines are booted: %s", p.template.failures, p.template.last)
	default:
		s.Reason = "template is being made"
	}
	if s.Ready && p.stock.failures > 0 {
		s.Reason += "; stock cannot be filled: " + p.stock.last
	}
	return s
}
