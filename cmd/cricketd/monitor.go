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
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/cri"
	"github.com/cricket-cri/cricket/runtime/monitor"
)

const (
	monitorName = "cricket-monitor"
	// monitorGrace is how long whoever keeps the monitor (systemd) has to start a new
	// one before the daemon does.
	monitorGrace = 2 * time.Second
	// monitorPatience is how long a call waits for a monitor that has died and is being
	// started again, which may first have to wait for what the last one left half done.
	monitorPatience = 10 * time.Second
)

// keeper sees to it that a monitor runs, and holds duplicates of what would be lost
// with it. The monitor outlives the daemon.
type keeper struct {
	start  monitor.StartOptions
	client *monitor.Client
	kept   *monitor.Keeper
	log    *slog.Logger
	wg     sync.WaitGroup // watch
	// restarts counts monitors that have ended under this daemon and were replaced.
	restarts atomic.Uint64
}

// newKeeper returns when a monitor answers; from then on, until ctx ends, it starts
// another whenever there is none.
func newKeeper(ctx context.Context, stateDir, logLevel string, log *slog.Logger) (*keeper, error) {
	path, err := monitorPath()
	if err != nil {
		return nil, err
	}
	k := &keeper{log: log, start: monitor.StartOptions{
		Binary: path, Socket: monitorSocket(stateDir), State: filepath.Join(stateDir, "monitor"),
		LogFile: filepath.Join(stateDir, "monitor.log"), LogLevel: logLevel,
	}}
	k.client = monitor.NewClient(monitor.DialPatiently(k.start.Socket, monitorPatience))
	k.kept = monitor.NewKeeper(k.client)
	info, err := k.begin(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w; see %s", err, k.start.LogFile)
	}
	k.wg.Go(func() { k.watch(ctx, info.Pid) })
	return k, nil
}

func monitorSocket(stateDir string) string { return filepath.Join(stateDir, "monitor.sock") }

// begin makes sure that a monitor answers and gives it what is held for it.
func (k *keeper) begin(ctx context.Context) (monitor.Info, error) {
	info, err := monitor.Start(ctx, k.start)
	if err != nil {
		return info, err
	}
	if err := k.restore(ctx, info.Pid); err != nil {
		k.log.Error("monitor is not given everything back", "error", err)
	}
	return info, nil
}

// restore gives up when the monitor dies meanwhile: it is the caller who has to start the
// next one, and calls would wait for that.
func (k *keeper) restore(ctx context.Context, pid int) error {
	ctx, cancel := context.WithCancel(ctx)
	var watch sync.WaitGroup
	watch.Go(func() {
		if awaitEnd(ctx, pid) == nil {
			cancel()
		}
	})
	defer watch.Wait()
	defer cancel()
	return k.kept.Restore(ctx)
}

// supervisor is the monitor as the drivers use it: what it creates is held here too.
type supervisor struct {
	*monitor.Client
	keep *keeper
}

// Create makes a container and holds duplicates of its descriptors. Without them it
// runs just as well: they matter if the monitor dies.
func (s supervisor) Create(ctx context.Context, r monitor.CreateRequest) (monitor.Created, error) {
	made, err := s.Client.Create(ctx, r)
	if err != nil {
		return made, err
	}
	if err := s.keep.kept.Keep(ctx, r.ID); err != nil {
		s.keep.log.Warn("container's descriptors are not held twice", "container", r.ID, "error", err)
	}
	return made, nil
}

// Delete deletes a container and lets its duplicates go.
func (s supervisor) Delete(ctx context.Context, id string) error {
	if err := s.Client.Delete(ctx, id); err != nil {
		return err
	}
	s.keep.kept.Forget(id)
	return nil
}

// measure adds the metrics of the monitor.
func (k *keeper) measure(all *cri.Metrics) {
	all.Add(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Namespace: "cricket", Name: "monitor_restarts_total",
		Help: "Monitors that have ended under this daemon and were replaced.",
	}, func() float64 { return float64(k.restarts.Load()) }))
}

// close stops watching; the monitor runs on.
func (k *keeper) close() {
	k.wg.Wait()
	k.kept.Close()
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
	for k.hasEnded(ctx, pid) {
		k.log.Error("monitor has ended", "pid", pid)
		info, err := k.successor(ctx)
		for err != nil && ctx.Err() == nil {
			k.log.Error("monitor cannot be started", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
				info, err = k.begin(ctx)
			}
		}
		if err != nil {
			return
		}
		k.restarts.Add(1)
		k.log.Info("monitor serves again", "pid", info.Pid)
		pid = info.Pid
	}
}

// hasEnded returns true when the process has ended, false when ctx has. It tries until it
// can: nobody else replaces a monitor.
func (k *keeper) hasEnded(ctx context.Context, pid int) bool {
	for {
		err := awaitEnd(ctx, pid)
		if err == nil {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		k.log.Error("monitor cannot be watched", "pid", pid, "error", err)
		select {
		case <-ctx.Done():
			return false
		case <-time.After(time.Second):
		}
	}
}

// successor leaves systemd, if that keeps the monitor, some time to start the next one.
func (k *keeper) successor(ctx context.Context) (monitor.Info, error) {
	if os.Getenv("INVOCATION_ID") == "" {
		return k.begin(ctx)
	}
	grace := time.NewTimer(monitorGrace)
	defer grace.Stop()
	tick := time.NewTicker(50 * time.Millisecond) // a socket appears without notice
	defer tick.Stop()
	now := monitor.NewClient(monitor.DialUnix(k.start.Socket))
	for {
		if _, err := now.Hello(ctx); err == nil {
			return k.begin(ctx)
		}
		select {
		case <-grace.C:
			return k.begin(ctx)
		case <-ctx.Done():
			return monitor.Info{}, ctx.Err()
		case <-tick.C:
		}
	}
}

// awaitEnd returns nil when the process has ended, an error when ctx has or where it
// cannot be waited for.
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
