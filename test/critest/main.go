// Critest runs CRI's conformance suite against a runtime in a private node and fails
// unless every spec passed or is one that skips.txt lists:
//
//	go run ./test/critest --cricketd bin/cricketd
//	go run ./test/critest --runtime containerd     # shows that the images are honest
//	go run ./test/critest --focus 'Networking'     # a few specs, while developing
//	go run ./test/critest --shell bash             # no suite: a shell in the node
//	go run ./test/critest --bundle DIR             # no suite: what another machine needs
//	DIR/tools/critest-runner --endpoint unix:///run/cricket/cricket.sock   # there
//
// Before and after the suite it lists the node's mounts, processes, links, cgroups,
// leases and firewall rules; what the runtime left behind is a failure too. The last
// line is "N passed, N failed, N skipped".
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/hack/tools"
	"github.com/cricket-cri/cricket/test/harness"
	"github.com/cricket-cri/cricket/test/images"
)

// The variables by which the part outside the node tells the part inside what it built.
const (
	critestEnv = "CRICKET_TEST_CRITEST"
	runtimeEnv = "CRICKET_TEST_RUNTIME"
	runcEnv    = "CRICKET_TEST_RUNC"
	crictlEnv  = "CRICKET_TEST_CRICTL"
	imagesEnv  = "CRICKET_TEST_IMAGES"
)

type options struct {
	runtime, cricketd, handler string
	focus, skip, shell         string
	cache, reports             string
	bundle, endpoint           string
	repeat                     int
	arguments                  []string // for the daemon
}

func main() {
	code, err := run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "critest:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func run() (int, error) {
	o := parse()
	if o.endpoint != "" {
		return against(o)
	}
	if harness.Dir() == "" {
		if err := prepare(o); err != nil {
			return 1, err
		}
	}
	if o.bundle != "" {
		return 0, bundle(o.bundle)
	}
	code, done, err := harness.Isolate()
	if done || err != nil {
		return code, err
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	return inside(ctx, o)
}

func parse() options {
	var o options
	flag.StringVar(&o.runtime, "runtime", "cricket", "cricket or containerd")
	flag.StringVar(&o.cricketd, "cricketd", "bin/cricketd", "the daemon's binary")
	flag.StringVar(&o.handler, "handler", "", "runtime handler of every pod")
	flag.StringVar(&o.focus, "focus", "", "run only specs that match this expression")
	flag.StringVar(&o.skip, "skip", "", "leave out specs that match this expression")
	flag.StringVar(&o.shell, "shell", "", "run this shell command beside the runtime instead of the suite")
	flag.StringVar(&o.bundle, "bundle", "", "put critest, crictl, this program, the registry and the images into this directory instead of running the suite")
	flag.StringVar(&o.endpoint, "endpoint", "", "run the critest beside this program against the runtime at this unix:// address, which uses a mirror with the test images already; what it leaves behind is not looked for")
	flag.StringVar(&o.cache, "cache", ".cache", "directory that keeps what was built")
	flag.StringVar(&o.reports, "reports", ".cache/reports", "directory for the suite's output, report and the daemon's log")
	flag.IntVar(&o.repeat, "repeat", 1, "whole runs in a row, with one daemon")
	flag.Parse()
	o.arguments = flag.Args()
	return o
}

// prepare builds what the suite needs, with the machine's own network, and hands the
// paths on in the environment.
func prepare(o options) error {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	say := func(f string, a ...any) { fmt.Printf(f+"\n", a...) }
	module, err := moduleRoot(ctx)
	if err != nil {
		return err
	}
	set, err := images.Build(ctx, images.Options{Module: module, Cache: o.cache, Say: say})
	if err != nil {
		return err
	}
	digest, err := set.Digest(images.DigestImage)
	if err != nil {
		return err
	}
	b := tools.Builder{Cache: o.cache, Say: say}
	critest, err := b.Build(ctx, tools.Critest(digest.String()))
	if err != nil {
		return err
	}
	crictl, err := b.Build(ctx, tools.Crictl())
	if err != nil {
		return err
	}
	env := map[string]string{critestEnv: critest, imagesEnv: set.Dir(), crictlEnv: crictl, "PATH": filepath.Dir(crictl) + ":" + os.Getenv("PATH")}
	if o.runtime == "containerd" {
		if env[runtimeEnv], env[runcEnv], err = containerd(ctx, b); err != nil {
			return err
		}
	} else if env[runtimeEnv], err = filepath.Abs(o.cricketd); err != nil {
		return err
	}
	for k, v := range env {
		if err := os.Setenv(k, v); err != nil {
			return err
		}
	}
	return nil
}

// containerd builds the reference runtime and returns a directory with containerd and
// its shim, and the path of runc.
func containerd(ctx context.Context, b tools.Builder) (string, string, error) {
	dir, err := filepath.Abs(filepath.Join(b.Cache, "containerd"))
	if err != nil {
		return "", "", err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", "", err
	}
	for _, t := range tools.Containerd() {
		path, err := b.Build(ctx, t)
		if err != nil {
			return "", "", err
		}
		link := filepath.Join(dir, t.Name)
		if err := os.RemoveAll(link); err != nil {
			return "", "", err
		}
		if err := os.Symlink(path, link); err != nil {
			return "", "", err
		}
	}
	runc, err := b.Build(ctx, tools.Runc())
	return dir, runc, err
}

func moduleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// starter is the runtime that was asked for.
func (o options) starter() (harness.Starter, error) {
	switch o.runtime {
	case "cricket":
		return harness.Cricketd(os.Getenv(runtimeEnv), o.arguments...), nil
	case "containerd":
		return harness.Containerd(os.Getenv(runtimeEnv), os.Getenv(runcEnv)), nil
	default:
		return nil, fmt.Errorf("no runtime is called %s", strconv.Quote(o.runtime))
	}
}
