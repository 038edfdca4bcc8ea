// Command cricketd is Cricket's daemon: it serves the Kubernetes Container Runtime
// Interface on a unix socket. Pods go on without it: it can be stopped, killed and
// started again at any time.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/cri/config"
)

// version is set by the linker.
var version = "development"

func main() {
	// A write to a standard error that nobody reads any more would be the end otherwise. It
	// is caught and not ignored: what is executed here would go on ignoring it.
	signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE)
	err := mainError(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "cricketd:", err)
		os.Exit(1)
	}
}

func mainError(args []string) error {
	fs := flag.NewFlagSet("cricketd", flag.ContinueOnError)
	flags := config.Bind(fs)
	show := fs.Bool("version", false, "print the version")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if *show {
		fmt.Println(version)
		return nil
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q; cricketd takes flags only, see --help", fs.Arg(0))
	}
	c, err := flags.Config()
	if err != nil {
		return err
	}
	log, err := newLog(c.LogLevel)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	return run(ctx, c, log)
}

func newLog(level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("--log-level: %w", err)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: l})), nil
}
