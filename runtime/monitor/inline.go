package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// writeBundle makes the bundle of a request that brings its specification.
func (n *creation) writeBundle(context.Context) error {
	if !n.c.rec.Inline {
		return nil
	}
	if err := os.MkdirAll(n.req.Bundle, 0o755); err != nil {
		return fmt.Errorf("make bundle: %w", err)
	}
	b, err := json.Marshal(n.req.Spec)
	if err != nil {
		return fmt.Errorf("encode specification: %w: %w", errdefs.ErrInvalidArgument, err)
	}
	if err := os.WriteFile(filepath.Join(n.req.Bundle, configFile), b, 0o600); err != nil {
		return errors.Join(fmt.Errorf("write specification: %w", err), removeBundle(n.req))
	}
	return nil
}

func (n *creation) removeBundle(context.Context) error {
	if !n.c.rec.Inline {
		return nil
	}
	return removeBundle(n.req)
}

const configFile = "config.json"

// removeBundle removes what is in a bundle for no other reason than that it was made for
// a request with a specification. Directories go only when they are empty: something may
// be mounted there.
func removeBundle(r CreateRequest) error {
	err := os.Remove(filepath.Join(r.Bundle, configFile))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove specification: %w", err)
	}
	for _, o := range append([]Overlay{r.Rootfs}, r.Overlays...) {
		if o.Target != "" && filepath.IsLocal(o.Target) {
			_ = unix.Rmdir(filepath.Join(r.Bundle, o.Target)) // stays if it is in use
		}
	}
	_ = unix.Rmdir(r.Bundle) // stays if there is more in it
	return nil
}
