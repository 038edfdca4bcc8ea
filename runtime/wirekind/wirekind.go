// Package wirekind names the kinds of errors that cross a connection between two of our
// programs, so that errors.Is says the same on both sides.
package wirekind

import (
	"context"
	"errors"

	"github.com/containerd/errdefs"
)

// Internal is the name of every kind that has no name of its own.
const Internal = "internal"

// All are the kinds that have a name.
func All() map[string]error {
	return map[string]error{
		"not_found":           errdefs.ErrNotFound,
		"already_exists":      errdefs.ErrAlreadyExists,
		"invalid_argument":    errdefs.ErrInvalidArgument,
		"failed_precondition": errdefs.ErrFailedPrecondition,
		"unavailable":         errdefs.ErrUnavailable,
		"resource_exhausted":  errdefs.ErrResourceExhausted,
		"unimplemented":       errdefs.ErrNotImplemented,
		"permission_denied":   errdefs.ErrPermissionDenied,
		"canceled":            context.Canceled,
		"deadline_exceeded":   context.DeadlineExceeded,
	}
}

// Of is the name of an error's kind.
func Of(err error) string {
	for name, kind := range All() {
		if errors.Is(err, kind) {
			return name
		}
	}
	return Internal
}

// Named is the kind of that name, errdefs.ErrInternal for one that is not known.
func Named(name string) error {
	if kind, ok := All()[name]; ok {
		return kind
	}
	return errdefs.ErrInternal
}
