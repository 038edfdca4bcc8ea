package image

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// attempts is how often one small request is made, and how often one layer's stream is
// taken up again without getting on.
const attempts = 5

// maxRetryAfter is how long a registry can have a pull wait before a request is repeated.
// A longer wait is for the caller, who has other pods to start: the kubelet comes back
// after at most five minutes.
const maxRetryAfter = time.Minute

// limitedError is the answer of a host that wants to be asked later (RFC 9110, 10.2.3).
type limitedError struct {
	host  string
	code  int
	until time.Time // zero if the host does not say
}

func (e *limitedError) Error() string {
	text := fmt.Sprintf("%s answers %d %s", e.host, e.code, http.StatusText(e.code))
	if !e.until.IsZero() {
		text += ", to be asked again at " + e.until.UTC().Format(time.RFC3339)
	}
	return text
}

func (*limitedError) Unwrap() error { return errdefs.ErrUnavailable }

// retryAfter reads the header of that name, seconds or a date. Dates count from the
// server's own, as its clock may be another one.
func retryAfter(h http.Header, now time.Time) (until time.Time, ok bool) {
	value := strings.TrimSpace(h.Get("Retry-After"))
	if s, err := strconv.ParseUint(value, 10, 31); err == nil {
		return now.Add(time.Duration(s) * time.Second), true
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return time.Time{}, false
	}
	if sent, err := http.ParseTime(h.Get("Date")); err == nil {
		return now.Add(max(at.Sub(sent), 0)), true
	}
	return at, true
}

// retry repeats what fails for a passing reason.
func (r *registry) retry(ctx context.Context, do func() error) error {
	for i := 0; ; i++ {
		err := do()
		if err == nil || !transient(err) || i == attempts-1 {
			return err
		}
		if err := r.wait(ctx, i, err); err != nil {
			return err
		}
		r.counts.retries.Add(1)
	}
}

// wait is the pause before the i-th repetition (from 0), for as long as the registry
// wants it and never less than the backoff. It answers err if it is not worth waiting,
// and the context's error as well if that ended.
func (r *registry) wait(ctx context.Context, i int, err error) error {
	if time.Duration(r.barren.Load()) >= r.stall {
		return fmt.Errorf("%w: %w", &stalledError{r.stall}, err)
	}
	d := r.backoff << i
	if l, ok := errors.AsType[*limitedError](err); ok {
		left := time.Until(l.until)
		if left > maxRetryAfter {
			return err
		}
		d = max(d, left)
	}
	r.log.Debug("registry request is repeated", "image", r.full, "attempt", i+1, "wait", d, "error", redacted{err})
	if waitErr := pause(ctx, d); waitErr != nil {
		return errors.Join(waitErr, err)
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
