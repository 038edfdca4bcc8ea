// Command cricket-monitor supervises the container processes of a node. It is started
// once, by systemd or by the first daemon that needs it, and goes on when daemons come
// and go. As "cricket-monitor pod-init POD" it is process 1 of a shared PID namespace. As
// "cricket-monitor confine REQUEST PROGRAM..." it gives up what it has of the host and
// becomes the program.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"

	"github.com/containerd/errdefs"
	systemd "github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime/monitor"
	"github.com/cricket-cri/cricket/vmsandbox/qemu/confine"
)

// The monitor's heap is small and lives long: collect early, and give back.
const (
	gcPercent   = 50
	memoryLimit = 256 << 20 // bytes; soft, far above what 500 containers need
)

func main() {
	if len(os.Args) >= 2 && os.Args[1] == "pod-init" {
		monitor.PodInit()
	}
	if len(os.Args) >= 2 && os.Args[1] == "confine" {
		confine.Main(os.Args[2:])
	}
	// A write to a standard error that nobody reads any more would be the end otherwise. It
	// is caught and not ignored: what is executed here would go on ignoring it.
	signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE)
	debug.SetGCPercent(gcPercent)
	debug.SetMemoryLimit(memoryLimit)
	socket := flag.String("socket", "/run/cricket/monitor.sock", "`path` of the socket to answer on")
	state := flag.String("state", "/run/cricket/monitor", "`directory` for records of running containers")
	level := slog.LevelInfo
	flag.TextVar(&level, "log-level", level, "least `level` to log: debug, info, warn, error")
	flag.Parse()
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	err := monitor.Run(ctx, monitor.RunOptions{
		Socket: *socket, State: *state, Log: log,
		Ready:     func() { notify(log, systemd.SdNotifyReady) },
		Upgrading: func() { notify(log, systemd.SdNotifyReloading) },
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "cricket-monitor:", err)
		if errdefs.IsAlreadyExists(err) {
			os.Exit(monitor.BusyExit)
		}
		os.Exit(1)
	}
}

// notify tells systemd, if that started this program. The process id stays the same
// over an upgrade, so systemd has nothing to follow.
func notify(log *slog.Logger, state string) {
	if _, err := systemd.SdNotify(false, state); err != nil {
		log.Warn("systemd is not notified", "error", err)
	}
}
