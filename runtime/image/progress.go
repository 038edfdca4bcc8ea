package image

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
)

// progress notices a pull that waits for the network and gets nothing. Time in which no
// request is waited for, because the disk is slow, does not count.
type progress struct {
	waiting atomic.Int64
	last    atomic.Int64 // nanoseconds since 1970: the last byte, or the begin of waiting
}

func (p *progress) begin() {
	if p.waiting.Add(1) == 1 {
		p.last.Store(time.Now().UnixNano())
	}
}

func (p *progress) end(moved bool) {
	p.waiting.Add(-1)
	if moved {
		p.last.Store(time.Now().UnixNano())
	}
}

// watch cancels with a reason once nothing has moved for the limit, and returns when ctx
// is done.
func (p *progress) watch(ctx context.Context, limit time.Duration, cancel context.CancelCauseFunc) {
	tick := time.NewTicker(max(limit/8, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		idle := time.Since(time.Unix(0, p.last.Load()))
		if p.waiting.Load() > 0 && idle > limit {
			cancel(fmt.Errorf("wait for registry: %w: no byte for %s", errdefs.ErrUnavailable, limit))
			return
		}
	}
}

// transport counts what passes through another transport.
type transport struct {
	base     http.RoundTripper
	progress *progress
}

func (t transport) RoundTrip(req *http.Request) (*http.Response, error) {
	t.progress.begin()
	resp, err := t.base.RoundTrip(req)
	t.progress.end(err == nil)
	if err == nil {
		resp.Body = countedBody{resp.Body, t.progress}
	}
	return resp, err
}

type countedBody struct {
	io.ReadCloser
	progress *progress
}

func (b countedBody) Read(buf []byte) (int, error) {
	b.progress.begin()
	n, err := b.ReadCloser.Read(buf)
	b.progress.end(n > 0)
	return n, err
}
