package guest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime/monitor"
	"github.com/cricket-cri/cricket/runtime/mux"
)

// Options configure Run.
type Options struct {
	// Executor runs the containers.
	Executor monitor.Executor
	// PodInit is the command line of the process that holds a pod's PID namespace.
	PodInit []string
}

// stateDir is where the monitor keeps its records. They end with the machine.
const stateDir = "/run/cricket"

// ports are the names of the machine's ports, as vmsandbox/vmm has them: the daemon's, and
// that of the host's monitor.
func ports() []string { return []string{"cricket.daemon", "cricket.monitor"} }

// The heap is small and every page of it is one that a clone no longer shares.
const (
	gcPercent   = 50
	memoryLimit = 64 << 20 // bytes; soft
)

// Run is process 1 of a guest. It returns only if the machine cannot be used.
func Run(ctx context.Context, o Options) error {
	debug.SetGCPercent(gcPercent)
	debug.SetMemoryLimit(memoryLimit)
	signal.Ignore(unix.SIGPIPE, unix.SIGHUP)
	log, err := prepare()
	if err != nil {
		return err
	}
	g, err := New(log)
	if err != nil {
		return err
	}
	boot, err := newBootID()
	if err != nil {
		return err
	}
	srv, err := monitor.NewServer(monitor.Options{State: stateDir, PodInit: o.PodInit, Log: log, Executor: gated{o.Executor, g.gate}, Boot: boot})
	if err != nil {
		return fmt.Errorf("start monitor: %w", err)
	}
	s := services{guest: g, monitor: srv, log: log}
	var serving sync.WaitGroup
	failed := make([]error, len(ports()))
	for i, name := range ports() {
		serving.Go(func() { failed[i] = s.serve(ctx, name) })
	}
	serving.Wait()
	for _, err := range failed {
		if err != nil {
			return err
		}
	}
	return nil
}

// newBootID gives the monitor a boot id of its own: the kernel's is made when it is first
// read, and would be the same in all clones of a template.
func newBootID() (string, error) {
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		return "", fmt.Errorf("make boot id: %w", err)
	}
	return hex.EncodeToString(id), nil
}

// kernelLog writes lines into the kernel's log, which goes to the machine's console if it
// has one.
type kernelLog struct{ f *os.File }

func (k kernelLog) Write(p []byte) (int, error) {
	// A full log is no reason to lose a container.
	if _, err := k.f.Write(append([]byte("cricket-guest: "), p...)); err != nil {
		return 0, err
	}
	return len(p), nil
}

// openLog is where this process logs to: there is no other place.
func openLog() *slog.Logger {
	var w io.Writer = os.Stderr
	f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
	if err == nil {
		w = kernelLog{f}
	}
	leaveOutTime := func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{} // the kernel adds its own
		}
		return a
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelInfo, ReplaceAttr: leaveOutTime}))
}

// options of the channels to the host.
func muxOptions(log *slog.Logger) mux.Options { return mux.Options{Log: log} }
