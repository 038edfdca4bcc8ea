package monitor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// StartOptions say how a daemon starts a monitor.
type StartOptions struct {
	// Binary is the path of cricket-monitor.
	Binary string
	// Socket and State are passed on.
	Socket string
	State  string
	// LogFile receives the monitor's own log; empty for the daemon's standard error.
	LogFile string
	// LogLevel is passed on; empty for the default.
	LogLevel string
}

// startTime bounds how long a new monitor may take to answer.
const startTime = 20 * time.Second

// BusyExit is the exit code of a monitor that found the socket in use: by one that does
// not answer yet, or by one that is dying.
const BusyExit = 75

// Start makes sure that a monitor answers on the socket: it starts one, detached from
// the caller's session, unless there is one already. Of several callers at once, only
// one starts it. It must not be called in a process that runs a Server.
func Start(ctx context.Context, o StartOptions) (Info, error) {
	client := NewClient(DialUnix(o.Socket))
	if info, err := client.Hello(ctx); err == nil {
		return info, nil
	}
	if err := os.MkdirAll(filepath.Dir(o.Socket), 0o711); err != nil {
		return Info{}, fmt.Errorf("start monitor: %w", err)
	}
	lock, err := lockFile(o.Socket+".start", unix.LOCK_EX)
	if err != nil {
		return Info{}, fmt.Errorf("start monitor: %w", err)
	}
	defer lock.Close()
	if info, err := client.Hello(ctx); err == nil {
		return info, nil // another caller was faster
	}
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	return insist(ctx, o, client)
}

// insist starts a monitor, again while another is coming or going, until one answers.
func insist(ctx context.Context, o StartOptions, client *Client) (Info, error) {
	died, err := spawnMonitor(o)
	if err != nil {
		return Info{}, err
	}
	tick := time.NewTicker(5 * time.Millisecond) // the socket appears without notice
	defer tick.Stop()
	for {
		info, err := client.Hello(ctx)
		if err == nil {
			return info, nil
		}
		select {
		case <-tick.C:
		case cause := <-died:
			var exit *exec.ExitError
			if errors.As(cause, &exit) && exit.ExitCode() == BusyExit {
				<-tick.C
				if died, err = spawnMonitor(o); err != nil {
					return Info{}, err
				}
				continue
			}
			return Info{}, fmt.Errorf("start monitor: it ended at once: %w: %w", errdefs.ErrUnavailable, cause)
		case <-ctx.Done():
			return Info{}, fmt.Errorf("start monitor: %w", errors.Join(errdefs.ErrUnavailable, err))
		}
	}
}

func spawnMonitor(o StartOptions) (<-chan error, error) {
	args := []string{"--socket", o.Socket, "--state", o.State}
	if o.LogLevel != "" {
		args = append(args, "--log-level", o.LogLevel)
	}
	cmd := exec.Command(o.Binary, args...)
	cmd.Dir = "/"
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	if o.LogFile != "" {
		f, err := os.OpenFile(o.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
		if err != nil {
			return nil, fmt.Errorf("start monitor: %w", err)
		}
		defer f.Close()
		cmd.Stderr = f
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start monitor: %w", err)
	}
	died := make(chan error, 1)
	go func() { // reaps it, whenever that is
		err := cmd.Wait()
		if err == nil {
			err = errors.New("exit code 0")
		}
		died <- err
	}()
	return died, nil
}
