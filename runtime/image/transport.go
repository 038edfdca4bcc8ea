package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
)

// transport is what every request of a pull passes through, those for tokens and
// redirected ones included. It counts bytes, cuts requests that get none, keeps secrets
// from hosts that are merely redirected to, and reads what registries say of limits and
// ranges: the library above it does not.
type transport struct {
	base http.RoundTripper
	reg  *registry
}

func (t transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := t.reg.limited(req.URL.Host); err != nil {
		return nil, err
	}
	w := newWatch(req.Context(), t.reg.stall)
	sent := t.prepare(req, w.ctx)
	begin := time.Now()
	w.begin()
	resp, err := t.base.RoundTrip(sent)
	w.end(w.quota) // an answer is progress
	if err != nil {
		t.reg.barren.Add(int64(time.Since(begin)))
		defer w.close()
		return nil, w.reason(err)
	}
	t.reg.barren.Store(0)
	if err := t.judge(sent, resp); err != nil {
		resp.Body.Close()
		w.close()
		return nil, err
	}
	// Identity was asked for, digests are of the bytes as sent, and storages say of a layer
	// what it is made of. The library would decode whatever is listed, without bounds.
	resp.Header.Del("Content-Encoding")
	resp.Body = &body{resp.Body, w, t.reg.counts}
	switch {
	case isToken(req):
		resp.Body = &boundedBody{resp.Body, "token", maxToken, maxToken}
	case isManifest(req):
		resp.Body = &boundedBody{resp.Body, "manifest", maxManifest, maxManifest}
	}
	return resp, nil
}

// prepare is the request as it is sent.
func (t transport) prepare(req *http.Request, ctx context.Context) *http.Request {
	out := req.Clone(ctx)
	t.reg.mu.Lock()
	defer t.reg.mu.Unlock()
	if t.reg.whole {
		out.Header.Del("Range")
	}
	if req.Method == http.MethodGet || isToken(req) {
		// A part of a compressed representation could not be read, and what net/http
		// inflates by itself is longer than what is sent.
		out.Header.Set("Accept-Encoding", "identity")
	}
	strange := req.Response != nil && !t.reg.creds.admitted(req.URL.Scheme, req.URL.Host)
	if strange || moved(req) {
		for name := range t.reg.private {
			if name != "Authorization" { // the authorizer's, for this host
				out.Header.Del(name)
			}
		}
	}
	if strange {
		out.Header.Del("Authorization")
		out.Header.Del("Cookie")
	}
	return out
}

// judge takes some answers for errors.
func (t transport) judge(req *http.Request, resp *http.Response) error {
	until, told := retryAfter(resp.Header, time.Now())
	if resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusServiceUnavailable && told {
		t.reg.mu.Lock()
		t.reg.notBefore[req.URL.Host] = until
		t.reg.mu.Unlock()
		return &limitedError{req.URL.Host, resp.StatusCode, until}
	}
	if resp.StatusCode == http.StatusOK && isManifest(req) && resp.ContentLength > maxManifest {
		return fmt.Errorf("read manifest: %w: %d bytes, at most %d are read", errdefs.ErrFailedPrecondition, resp.ContentLength, maxManifest)
	}
	if resp.StatusCode == http.StatusPartialContent {
		asked, got := req.Header.Get("Range"), resp.Header.Get("Content-Range")
		if !answers(got, asked) {
			t.reg.askWhole()
			return &failure{fmt.Errorf("%w: asked for %q, the server sends %q", errBadRange, asked, got)}
		}
	}
	return nil
}

// isManifest says whether a request was made, or redirected, for a manifest or index.
func isManifest(req *http.Request) bool {
	return strings.Contains(original(req).URL.Path, "/manifests/")
}

// original is the request that a redirect, or several, led to this one from.
func original(req *http.Request) *http.Request {
	for req.Response != nil && req.Response.Request != nil {
		req = req.Response.Request
	}
	return req
}

// moved says whether a redirect led to another host, be it one of the same registry.
func moved(req *http.Request) bool { return original(req).URL.Host != req.URL.Host }

// errBadRange is passing: the blob is asked for as a whole the next time.
var errBadRange = errors.New("resume blob: wrong part of it")

// answers says whether a Content-Range begins where the Range does that was asked for.
func answers(got, asked string) bool {
	var from, to, want int64
	if n, _ := fmt.Sscanf(asked, "bytes=%d-", &want); n != 1 {
		return false
	}
	n, _ := fmt.Sscanf(got, "bytes %d-%d/", &from, &to)
	return n == 2 && from == want
}

// limited says that a host does not want to be asked yet.
func (r *registry) limited(host string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	until := r.notBefore[host]
	if time.Now().Before(until) {
		return &limitedError{host, http.StatusTooManyRequests, until}
	}
	return nil
}

// failure is an error from below HTTP. It does not show the library that it was a
// timeout, who would try the same endpoint again at once, and for minutes.
type failure struct{ err error }

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// stalledError ends a request that got no byte for too long.
type stalledError struct{ limit time.Duration }

func (e *stalledError) Error() string {
	return fmt.Sprintf("wait for registry: no byte for %s", e.limit)
}
func (*stalledError) Unwrap() error { return errdefs.ErrUnavailable }

// drippingError ends a request that got too few bytes: it has stalled as well.
type drippingError struct {
	stalledError
	got int64
}

func (e *drippingError) Error() string {
	return fmt.Sprintf("wait for registry: only %d bytes in %s", e.got, e.limit)
}
func (e *drippingError) Unwrap() error { return &e.stalledError }

// leastRate is what a request has to get, in bytes a second of the time in which it waits:
// one that drips would keep its slot for days. A line of 3 KiB/s serves as many downloads
// as are made at once by default.
const leastRate = 256

// watch cuts one request if too little arrives while it is waited for. Time between reads,
// because the disk is slow, does not count.
type watch struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	limit  time.Duration
	quota  int64 // bytes that are wanted within the limit
	timer  *time.Timer

	since time.Time     // when the wait that lasts began
	left  time.Duration // of the limit
	got   atomic.Int64  // bytes, of the quota
}

func newWatch(ctx context.Context, limit time.Duration) *watch {
	ctx, cancel := context.WithCancelCause(ctx)
	w := &watch{ctx: ctx, cancel: cancel, limit: limit, quota: max(1, int64(leastRate*limit.Seconds())), left: limit}
	w.timer = time.AfterFunc(limit, func() { cancel(w.stalled()) })
	w.timer.Stop()
	return w
}

func (w *watch) stalled() error {
	if got := w.got.Load(); got > 0 {
		return &drippingError{stalledError{w.limit}, got}
	}
	return &stalledError{w.limit}
}

func (w *watch) begin() {
	w.since = time.Now()
	w.timer.Reset(w.left)
}

// end is told how many bytes the wait was for.
func (w *watch) end(n int64) {
	w.timer.Stop()
	w.left -= time.Since(w.since)
	if w.got.Add(n) >= w.quota {
		w.left = w.limit
		w.got.Store(0)
	}
}

func (w *watch) close() {
	w.timer.Stop()
	w.cancel(nil)
}

// reason prefers the stall to the cancellation that came of it.
func (w *watch) reason(err error) error {
	cause := context.Cause(w.ctx)
	if _, ok := errors.AsType[*stalledError](cause); ok {
		return cause
	}
	return &failure{err}
}

// body is a response's, watched and counted.
type body struct {
	io.ReadCloser
	watch  *watch
	counts *counters
}

func (b *body) Read(buf []byte) (int, error) {
	b.watch.begin()
	n, err := b.ReadCloser.Read(buf)
	b.watch.end(int64(n))
	b.counts.bytes.Add(uint64(n))
	if err != nil && !errors.Is(err, io.EOF) {
		err = b.watch.reason(err)
	}
	return n, err
}

func (b *body) Close() error {
	err := b.ReadCloser.Close()
	b.watch.close()
	return err
}

// boundedBody ends with an error beyond so many bytes. Of a registry that does not say
// what a tag stands for the resolver reads all that it sends, and of a token's server the
// authorizer.
type boundedBody struct {
	io.ReadCloser
	what        string
	limit, left int64
}

func (b *boundedBody) Read(buf []byte) (int, error) {
	if int64(len(buf)) > b.left+1 {
		buf = buf[:b.left+1]
	}
	n, err := b.ReadCloser.Read(buf)
	if b.left -= int64(n); b.left < 0 {
		return 0, fmt.Errorf("read %s: %w: more than %d bytes", b.what, errdefs.ErrFailedPrecondition, b.limit)
	}
	return n, err
}
