package monitor

import (
	"context"
	"sync"
	"time"
)

// budget bounds what comes from one guest, in bytes a second. Half a second's worth may
// come at once.
type budget struct {
	mu   sync.Mutex
	rate float64
	left float64
	at   time.Time
}

const (
	// defaultRate is far more than a guest's container has reason to log, and keeps the
	// monitor below a tenth of a processor.
	defaultRate = 64 << 20
	// leastCharge is what a frame costs however small it is.
	leastCharge = 4 << 10
)

func (b *budget) set(rate int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rate = float64(rate)
}

// take returns when n bytes are within the budget.
func (b *budget) take(ctx context.Context, n int) error {
	wait := b.charge(max(n, leastCharge), time.Now())
	if wait <= 0 {
		return nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// charge books n bytes and returns how long to wait for them.
func (b *budget) charge(n int, now time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left = min(b.left+now.Sub(b.at).Seconds()*b.rate, b.rate/2)
	b.at = now
	b.left -= float64(n)
	if b.left >= 0 {
		return 0
	}
	return time.Duration(-b.left / b.rate * float64(time.Second))
}
