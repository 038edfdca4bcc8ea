package harness

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Final marks an error after which Until need not ask again.
func Final(err error) error { return final{err} }

type final struct{ error }

func (f final) Unwrap() error { return f.error }

// Until asks again and again, for as long as limit, until check returns nil, and returns
// its last error, or at once one that is Final.
func Until(ctx context.Context, limit time.Duration, check func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check(ctx)
		var end final
		if err == nil || errors.As(err, &end) {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("after %s: %w", limit, err)
		}
	}
}
