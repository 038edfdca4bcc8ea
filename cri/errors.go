package cri

import (
	"context"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cricket-cri/cricket/sandbox"
)

// kinds are the errors that say what went wrong, and the code that a client sees.
var kinds = []struct {
	err  error
	code codes.Code
}{
	{errdefs.ErrInvalidArgument, codes.InvalidArgument},
	{errdefs.ErrNotFound, codes.NotFound},
	{errdefs.ErrAlreadyExists, codes.AlreadyExists},
	{errdefs.ErrPermissionDenied, codes.PermissionDenied},
	{errdefs.ErrUnauthenticated, codes.Unauthenticated},
	{errdefs.ErrResourceExhausted, codes.ResourceExhausted},
	{errdefs.ErrFailedPrecondition, codes.FailedPrecondition},
	{errdefs.ErrConflict, codes.Aborted},
	{errdefs.ErrAborted, codes.Aborted},
	{errdefs.ErrOutOfRange, codes.OutOfRange},
	{errdefs.ErrNotImplemented, codes.Unimplemented},
	{errdefs.ErrUnavailable, codes.Unavailable},
	{errdefs.ErrDataLoss, codes.DataLoss},
	{errdefs.ErrInternal, codes.Internal},
	{sandbox.ErrGone, codes.FailedPrecondition},
	{context.Canceled, codes.Canceled},
	{context.DeadlineExceeded, codes.DeadlineExceeded},
}

// codeOf finds the first kind in err, in the order in which errors.Is walks it: of a
// failure joined with that of its undo, the failure counts. An error without a kind is
// a mistake of ours, so Internal; Unknown is never returned.
func codeOf(err error) codes.Code {
	if code, ok := findCode(err); ok {
		return code
	}
	return codes.Internal
}

func findCode(err error) (codes.Code, bool) {
	if err == nil {
		return codes.OK, false
	}
	if s, ok := err.(interface{ GRPCStatus() *status.Status }); ok && s.GRPCStatus().Code() != codes.Unknown {
		return s.GRPCStatus().Code(), true
	}
	is, _ := err.(interface{ Is(error) bool })
	for _, k := range kinds {
		//nolint:errorlint // this function walks the tree itself, to find the outermost kind
		if err == k.err || is != nil && is.Is(k.err) {
			return k.code, true
		}
	}
	switch u := err.(type) { //nolint:errorlint // as above
	case interface{ Unwrap() error }:
		return findCode(u.Unwrap())
	case interface{ Unwrap() []error }:
		for _, e := range u.Unwrap() {
			if code, ok := findCode(e); ok {
				return code, true
			}
		}
	}
	return codes.OK, false
}

// toStatus makes err what leaves the server.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	if s, ok := status.FromError(err); ok && s.Code() != codes.Unknown && s.Code() != codes.OK {
		return s.Err()
	}
	return status.Error(codeOf(err), err.Error())
}
