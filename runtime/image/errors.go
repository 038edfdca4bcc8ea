package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"syscall"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	remote "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
)

// queries finds the query of every URL in a text.
var queries = regexp.MustCompile(`(https?://[^\s"?]*)\?[^\s":]*`)

// redacted is an error whose text shows no queries: registries redirect to URLs whose
// signature opens the blob to everybody, and errors end up in events.
type redacted struct{ error }

func (r redacted) Error() string { return queries.ReplaceAllString(r.error.Error(), "$1") }
func (r redacted) Unwrap() error { return r.error }

// classify gives an error of a pull its kind. Errors that have one keep it, as does the
// end of the caller's context.
func classify(err error) error {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return withKind(err, errdefs.ErrResourceExhausted)
	}
	if s, ok := errors.AsType[remote.ErrUnexpectedStatus](err); ok {
		return withKind(err, statusKind(s.StatusCode))
	}
	if errors.Is(err, docker.ErrInvalidAuthorization) {
		return withKind(err, errdefs.ErrUnauthenticated)
	}
	if hasKind(err) {
		return err
	}
	if network(err) {
		return withKind(err, errdefs.ErrUnavailable)
	}
	return withKind(err, errdefs.ErrInternal)
}

func withKind(err, kind error) error {
	if errors.Is(err, kind) {
		return err
	}
	return fmt.Errorf("%w: %w", kind, err)
}

func statusKind(code int) error {
	switch {
	case code == http.StatusUnauthorized:
		return errdefs.ErrUnauthenticated
	case code == http.StatusForbidden:
		return errdefs.ErrPermissionDenied
	case code == http.StatusNotFound:
		return errdefs.ErrNotFound
	case code == http.StatusTooManyRequests, code == http.StatusRequestTimeout, code >= 500:
		return errdefs.ErrUnavailable
	}
	return errdefs.ErrFailedPrecondition
}

func hasKind(err error) bool {
	return !errors.Is(errdefs.Resolve(err), errdefs.ErrUnknown)
}

// network says whether an error comes from below HTTP.
func network(err error) bool {
	var netErr net.Error
	var urlErr *url.Error
	return errors.As(err, &netErr) || errors.As(err, &urlErr) ||
		errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// transient says whether the same request may succeed a moment later.
func transient(err error) bool {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	if s, ok := errors.AsType[remote.ErrUnexpectedStatus](err); ok {
		return errors.Is(statusKind(s.StatusCode), errdefs.ErrUnavailable)
	}
	if _, ok := errors.AsType[*limitedError](err); ok || errors.Is(err, errBadRange) {
		return true
	}
	if f, ok := errors.AsType[*failure](err); ok {
		err = f.err
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok && dns.IsNotFound {
		return false
	}
	if netErr, ok := errors.AsType[net.Error](err); ok && netErr.Timeout() {
		return true
	}
	for _, e := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.ECONNREFUSED, syscall.EPIPE} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// silent says whether an error took long: that of a host that is asked and says nothing.
func silent(err error) bool {
	if _, ok := errors.AsType[*stalledError](err); ok {
		return true
	}
	f, ok := errors.AsType[*failure](err)
	if !ok {
		return false
	}
	netErr, ok := errors.AsType[net.Error](f.err)
	return ok && netErr.Timeout()
}

// recovered turns a panic into an error. Those who read what registries send run in
// goroutines of their own, where nobody else would catch it.
func recovered(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("%w: panic: %v", errdefs.ErrInternal, r)
	}
}

// caught makes a panic of a step its error, so that the steps before are undone.
func caught(do func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) (err error) {
		defer recovered(&err)
		return do(ctx)
	}
}
