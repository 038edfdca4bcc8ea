package ops

import (
	"fmt"
	"log/slog"
	"runtime/debug"

	"github.com/containerd/errdefs"
)

// Panicked turns what recover returned into an error of kind errdefs.ErrInternal; the
// stack goes into the log. It must be called in the deferred function itself.
func Panicked(log *slog.Logger, p any) error {
	log.Error("panic", "value", fmt.Sprint(p), "stack", string(debug.Stack()))
	return fmt.Errorf("panic: %v: %w", p, errdefs.ErrInternal)
}
