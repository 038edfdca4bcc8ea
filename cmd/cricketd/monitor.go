package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime/monitor"
)

const (
	monitorName = "cricket-monitor"
	// monitorStart is how long a monitor may take until it answers.
	monitorStart = 15 * time.Second
	// monitorGrace is how long whoever keeps the monitor (systemd) has to start a new
	// one before the daemon does.
	monitorGrace = 2 * time.Second
)

// keeper sees to it that a monitor runs. The monitor is nobody's child for long: it
// outlives the daemon.
type keeper struct {
	socket, state string
	client        *monitor.Client
	log           *slog.Logger
	wg            sync.WaitGroup // watch, and the wait for children
}

// newKeeper returns when a monitor answers; from then on, until ctx ends, it starts
// another whenever there is none.
func newKeeper(ctx context.Context, stateDir string, log *slog.Logger) (*keeper, error) {
	k := &keeper{socket: monitorSocket(stateDir), state: filepath.Join(stateDir, "monitor"), log: log}
	k.client = monitor.NewClient(monitor.DialUnix(k.socket))
	info, err := k.client.Hello(ctx)
	if err != nil {
		if info, err = k.startMonitor(ctx); err != nil {
			return nil, err
		}
	}
	k.wg.Go(func() { k.watch(ctx, info.Pid) })
	return k, nil
}

func monitorSocket(stateDir string) string { return filepath.Join(stateDir, "monitor.sock") }

// startMonitor starts the program that lies beside this one, or in PATH.
func (k *keeper) startMonitor(ctx context.Context) (monitor.Info, error) {
	path, err := monitorPath()
	if err != nil {
		return monitor.Info{}, err
	}
	out, err := os.OpenFile(filepath.Join(filepath.Dir(k.socket), "monitor.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return monitor.Info{}, fmt.Errorf("open the monitor's log: %w", err)
	}
	defer out.Close()
	cmd := exec.Command(path, "--socket", k.socket, "--state", k.state)
	cmd.Stdout, cmd.Stderr, cmd.Dir = out, out, "/"
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return monitor.Info{}, fmt.Errorf("start the monitor: %w", err)
	}
	ended := make(chan error, 1)
	// This goroutine ends with the monitor, which outlives the daemon: nobody waits.
	go func() { ended <- cmd.Wait() }()
	return k.await(ctx, ended, out.Name())
}

func (k *keeper) await(ctx context.Context, ended <-chan error, logFile string) (monitor.Info, error) {
	ctx, cancel := context.WithTimeout(ctx, monitorStart)
	defer cancel()
	for {
		if info, err := k.client.Hello(ctx); err == nil {
			return info, nil
		}
		select {
		case err := <-ended:
			return monitor.Info{}, fmt.Errorf("start the monitor: it ended (%v); see %s", err, logFile)
		case <-ctx.Done():
			return monitor.Info{}, fmt.Errorf("start the monitor: it does not answer: %w; see %s", ctx.Err(), logFile)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// monitorPath finds the monitor of this version before any other.
func monitorPath() (string, error) {
	if self, err := os.Executable(); err == nil {
		path := filepath.Join(filepath.Dir(self), monitorName)
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	path, err := exec.LookPath(monitorName)
	if err != nil {
		return "", fmt.Errorf("find %s: %w; install it beside cricketd", monitorName, err)
	}
	return path, nil
}

// watch starts a new monitor when the present one has ended.
func (k *keeper) watch(ctx context.Context, pid int) {
	for ctx.Err() == nil {
		if err := awaitEnd(ctx, pid); err != nil {
			return
		}
		k.log.Error("monitor has ended", "pid", pid)
		info, err := k.successor(ctx)
		for err != nil && ctx.Err() == nil {
			k.log.Error("monitor cannot be started", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
				info, err = k.startMonitor(ctx)
			}
		}
		if err == nil {
			k.log.Info("monitor serves again", "pid", info.Pid)
			pid = info.Pid
		}
	}
}

// successor leaves whoever keeps the monitor some time before it starts one.
func (k *keeper) successor(ctx context.Context) (monitor.Info, error) {
	if os.Getenv("INVOCATION_ID") != "" { // started by systemd, so is the monitor
		ctx, cancel := context.WithTimeout(ctx, monitorGrace)
		defer cancel()
		if info, err := k.await(ctx, nil, ""); err == nil {
			return info, nil
		}
	}
	return k.startMonitor(ctx)
}

// awaitEnd returns nil when the process has ended, an error when ctx has.
func awaitEnd(ctx context.Context, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(wake)
	woken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_, _ = unix.Write(wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
		close(woken)
	})
	defer func() {
		if !stop() {
			<-woken // not before it has written: the number may be another file's
		}
	}()
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(wake), Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(fds, -1)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil:
			return nil
		case !errors.Is(err, unix.EINTR):
			return err
		}
	}
}
