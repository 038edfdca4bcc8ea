package oci

import (
	"strings"

	"github.com/containerd/errdefs"
)

// kinds are what the C library and Go say for an error number, in small letters, and
// the kind of the failure that ends with it. What a container's image, configuration
// or node do not allow is no defect of the runtime.
var kinds = []struct {
	text string
	kind error
}{
	{"no space left on device", errdefs.ErrResourceExhausted},
	{"cannot allocate memory", errdefs.ErrResourceExhausted},
	{"too many open files", errdefs.ErrResourceExhausted},
	{"resource temporarily unavailable", errdefs.ErrResourceExhausted},
	{"no such file or directory", errdefs.ErrFailedPrecondition},
	{"not found in $path", errdefs.ErrFailedPrecondition},
	{"not a directory", errdefs.ErrFailedPrecondition},
	{"is a directory", errdefs.ErrFailedPrecondition},
	{"operation not permitted", errdefs.ErrFailedPrecondition},
	{"permission denied", errdefs.ErrFailedPrecondition},
	{"out of range", errdefs.ErrFailedPrecondition},
	{"invalid argument", errdefs.ErrFailedPrecondition},
	{"exec format error", errdefs.ErrFailedPrecondition},
	{"argument list too long", errdefs.ErrFailedPrecondition},
	{"too many levels of symbolic links", errdefs.ErrFailedPrecondition},
	{"file name too long", errdefs.ErrFailedPrecondition},
	{"read-only file system", errdefs.ErrFailedPrecondition},
	{"file exists", errdefs.ErrFailedPrecondition},
	{"no such device", errdefs.ErrFailedPrecondition},
	{"device or resource busy", errdefs.ErrFailedPrecondition},
	{"operation not supported", errdefs.ErrFailedPrecondition},
	{"cannot be mounted", errdefs.ErrFailedPrecondition},
}

// Kind is the kind of a failure that a runtime describes with message, one of package
// errdefs: ErrInternal if the message names no cause that is known.
func Kind(message string) error {
	small := strings.ToLower(message)
	for _, k := range kinds {
		if strings.Contains(small, k.text) {
			return k.kind
		}
	}
	return errdefs.ErrInternal
}
