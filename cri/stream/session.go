package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/containerd/errdefs"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/utils/exec"

	"github.com/cricket-cri/cricket/runtime"
)

// sessions is the library's view of a Server.
type sessions struct{ *Server }

// Exec runs a command in a container, connected to the client's streams. An exit code
// other than 0 is an exec.CodeExitError, which the client gets as such.
func (s sessions) Exec(ctx context.Context, id string, cmd []string, in io.Reader, out, errw io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	return s.session(ctx, in, out, errw, tty, resize, func(ctx context.Context, st runtime.Streams) error {
		c, err := s.targets.Container(id, "exec in")
		if err != nil {
			return err
		}
		exit, err := c.Exec(ctx, runtime.ExecConfig{Args: cmd, Streams: st})
		if err != nil {
			return err
		}
		return exitError(exit)
	})
}

// Attach connects the client's streams to a container's own process.
func (s sessions) Attach(ctx context.Context, id string, in io.Reader, out, errw io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	return s.session(ctx, in, out, errw, tty, resize, func(ctx context.Context, st runtime.Streams) error {
		c, err := s.targets.Container(id, "attach to")
		if err != nil {
			return err
		}
		return c.Attach(ctx, st)
	})
}

// session runs f with the client's streams and ends what belongs to the session.
func (s sessions) session(ctx context.Context, in io.Reader, out, errw io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize, f func(context.Context, runtime.Streams) error) error {
	s.wg.Add(1)
	defer s.wg.Done()
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	st := runtime.Streams{Stdin: in, Terminal: tty}
	if out != nil {
		defer out.Close()
		st.Stdout = out
	}
	if errw != nil && !tty {
		defer errw.Close()
		st.Stderr = errw
	}
	if resize != nil {
		sizes := make(chan runtime.Size)
		st.Resize = sizes
		wg.Go(func() { convertSizes(ctx, resize, sizes) })
	}
	err := f(ctx, st)
	if s.ctx.Err() != nil && (err == nil || errors.Is(err, context.Canceled)) {
		return fmt.Errorf("the runtime is shutting down, which ends this session and not the process: %w", errdefs.ErrUnavailable)
	}
	return err
}

// convertSizes hands terminal sizes on until ctx or in ends.
func convertSizes(ctx context.Context, in <-chan remotecommand.TerminalSize, out chan<- runtime.Size) {
	for {
		select {
		case size, ok := <-in:
			if !ok {
				return
			}
			select {
			case out <- runtime.Size{Width: size.Width, Height: size.Height}:
			case <-ctx.Done():
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

func exitError(e runtime.Exit) error {
	switch {
	case e.Unknown:
		return fmt.Errorf("exit code of the process is unknown: %w", errdefs.ErrUnavailable)
	case e.Code != 0:
		return exec.CodeExitError{Err: fmt.Errorf("exit code %d", e.Code), Code: int(e.Code)}
	}
	return nil
}
