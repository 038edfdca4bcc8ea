package monitor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// RunOptions configure Run.
type RunOptions struct {
	Socket string
	State  string
	Log    *slog.Logger
	// Ready, if set, is called when calls are answered: after the start, and again after
	// every re-exec in place.
	Ready func()
	// Upgrading, if set, is called before a re-exec in place.
	Upgrading func()
}

// Run is a whole monitor: it claims the socket, adopts what runs and serves until ctx
// ends. A second monitor for the same socket gets ErrAlreadyExists.
func Run(ctx context.Context, o RunOptions) error {
	// The socket's directory is the daemon's too, and pods with user namespaces of their own
	// pass through it.
	if err := errors.Join(os.MkdirAll(filepath.Dir(o.Socket), 0o711), os.MkdirAll(o.State, 0o700)); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	program, err := os.Executable() // now, before an upgrade replaces the file
	if err != nil {
		return fmt.Errorf("find own program: %w", err)
	}
	h := receiveHandoff()
	lock, err := claimSocket(o.Socket, h)
	if err != nil {
		return err
	}
	defer lock.Close()
	s, err := NewServer(Options{State: o.State, Log: o.Log, handoff: h})
	if err != nil {
		return err
	}
	l, err := listen(o.Socket, h)
	if err != nil {
		return err
	}
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, unix.SIGHUP)
	defer signal.Stop(hangup)
	go func() {
		for {
			select {
			case <-hangup:
			case <-s.upgrade:
			case <-ctx.Done():
				return
			}
			tell(o.Upgrading)
			// It returns only if it was put off.
			o.Log.Warn("upgrade", slog.Any("error", s.reexec(ctx, program, l, lock)))
			tell(o.Ready)
		}
	}()
	o.Log.Info("monitor serves", slog.String("socket", o.Socket), slog.Int("pid", os.Getpid()))
	tell(o.Ready)
	return s.Serve(ctx, l)
}

func tell(f func()) {
	if f != nil {
		f()
	}
}

func claimSocket(socket string, h *handoff) (*os.File, error) {
	if h != nil && h.Lock > 0 {
		return reopened(h.Lock, "lock"), nil
	}
	lock, err := lockFile(socket+".lock", unix.LOCK_EX|unix.LOCK_NB)
	if err != nil {
		return nil, fmt.Errorf("lock socket: %w", err)
	}
	return lock, nil
}

func listen(socket string, h *handoff) (*net.UnixListener, error) {
	if h != nil && h.Listener > 0 {
		f := reopened(h.Listener, "listener")
		defer f.Close() // the listener has a duplicate
		if l, err := net.FileListener(f); err == nil {
			if u, ok := l.(*net.UnixListener); ok {
				return u, nil
			}
			l.Close()
		}
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove old socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	if err := os.Chmod(socket, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("protect socket: %w", err)
	}
	return l, nil
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
