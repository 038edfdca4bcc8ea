package monitor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// RunOptions configure Run.
type RunOptions struct {
	Socket string
	State  string
	Log    *slog.Logger
}

// Run is a whole monitor: it claims the socket, adopts what runs and serves until ctx
// ends. A second monitor for the same socket gets ErrAlreadyExists.
func Run(ctx context.Context, o RunOptions) error {
	for _, dir := range []string{filepath.Dir(o.Socket), o.State} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make directory: %w", err)
		}
	}
	lock, err := lockFile(o.Socket+".lock", unix.LOCK_EX|unix.LOCK_NB)
	if err != nil {
		return fmt.Errorf("lock socket: %w", err)
	}
	defer lock.Close()
	s, err := NewServer(Options{State: o.State, Log: o.Log})
	if err != nil {
		return err
	}
	if err := os.Remove(o.Socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove old socket: %w", err)
	}
	l, err := net.Listen("unix", o.Socket)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	if err := os.Chmod(o.Socket, 0o600); err != nil {
		return fmt.Errorf("protect socket: %w", err)
	}
	o.Log.Info("monitor serves", slog.String("socket", o.Socket), slog.Int("pid", os.Getpid()))
	return s.Serve(ctx, l)
}

func lockFile(path string, how int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), how); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w: %w", errdefs.ErrAlreadyExists, err)
		}
		return nil, err
	}
	return f, nil
}
