// Bench measures Cricket beside containerd: both run in one private node, with the same
// images and the same bridge network, and cribench drives them in one run. What follows
// "--" goes to cribench:
//
//	go run ./test/bench -- --rounds 30 --pods 20
//	go run ./test/bench --config FILE --only cricket,vm -- --rounds 30
//
// The endpoints are called cricket, vm (the same daemon, each pod a virtual machine) and
// containerd (with runc). cribench's --endpoint, --handler and --processes are given here.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/hack/tools"
	"github.com/cricket-cri/cricket/test/harness"
	"github.com/cricket-cri/cricket/test/images"
)

// The variables by which the part outside the node tells the part inside what it built.
const (
	containerdEnv = "CRICKET_TEST_CONTAINERD"
	runcEnv       = "CRICKET_TEST_RUNC"
	imagesEnv     = "CRICKET_TEST_IMAGES"
)

// Endpoints that can be measured.
const (
	kernelPods = "cricket"
	vmPods     = "vm"
	peer       = "containerd"
)

type options struct {
	bin, cache, config string
	only               []string
	arguments          []string // for cribench
}

func main() { harness.Main("bench", run) }

func run() (int, error) {
	o, err := parse()
	if err != nil {
		return 1, err
	}
	return harness.InNode(o.prepare, func(ctx context.Context) (int, error) { return 0, o.inside(ctx) })
}

func parse() (options, error) {
	var o options
	all := []string{kernelPods, vmPods, peer}
	var only string
	flag.StringVar(&o.bin, "bin", "bin", "directory with cricketd, cricket-monitor, cribench and the guest image")
	flag.StringVar(&o.cache, "cache", ".cache", "directory that keeps what was built")
	flag.StringVar(&o.config, "config", "", "cricketd's configuration file; empty: its defaults")
	flag.StringVar(&only, "only", strings.Join(all, ","), "endpoints to measure")
	flag.Parse()
	o.only, o.arguments = strings.Split(only, ","), flag.Args()
	for _, name := range o.only {
		if !slices.Contains(all, name) {
			return o, fmt.Errorf("--only %s: want some of %s", name, strings.Join(all, ","))
		}
	}
	for _, path := range []*string{&o.bin, &o.config} {
		if *path == "" {
			continue
		}
		absolute, err := filepath.Abs(*path)
		if err != nil {
			return o, err
		}
		*path = absolute
	}
	return o, nil
}

func (o options) measures(names ...string) bool {
	return slices.ContainsFunc(names, func(n string) bool { return slices.Contains(o.only, n) })
}

func say(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

// prepare builds what the node needs, outside of it.
func (o options) prepare(ctx context.Context) (map[string]string, error) {
	set, err := images.Build(ctx, images.Options{Cache: o.cache, Say: say})
	if err != nil {
		return nil, err
	}
	env := map[string]string{imagesEnv: set.Dir()}
	if o.measures(peer) {
		b := tools.Builder{Cache: o.cache, Say: say}
		env[containerdEnv], env[runcEnv], err = b.Peer(ctx)
	}
	return env, err
}

// inside starts the daemons and runs cribench beside them.
func (o options) inside(ctx context.Context) (err error) {
	set, err := images.Open(os.Getenv(imagesEnv))
	if err != nil {
		return err
	}
	server, registry, err := images.NewRegistry(set).Serve("127.0.0.1:0")
	if err != nil {
		return err
	}
	defer server.Close()
	args := slices.Clone(o.arguments)
	if o.measures(kernelPods, vmPods) {
		d, err := o.cricket(ctx, registry)
		if err != nil {
			return err
		}
		defer func() { _ = d.Kill() }()
		args = append(args, o.endpoints(d.Paths.Socket)...)
		if o.measures(vmPods) {
			if err := stocked(ctx, d); err != nil {
				return err
			}
		}
	}
	if o.measures(peer) {
		d, err := start(ctx, peer, registry, harness.Containerd(os.Getenv(containerdEnv), os.Getenv(runcEnv)))
		if err != nil {
			return err
		}
		defer func() { _ = d.Kill() }()
		args = append(args, "--endpoint", peer+"=unix://"+d.Paths.Socket, "--processes", peer+"=containerd,containerd-shim-runc-v2")
	}
	c := exec.CommandContext(ctx, filepath.Join(o.bin, "cribench"), args...)
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	return c.Run()
}

// endpoints are cribench's arguments for Cricket.
func (o options) endpoints(socket string) (args []string) {
	for name, handler := range map[string]string{kernelPods: "", vmPods: "vm"} {
		if !o.measures(name) {
			continue
		}
		args = append(args, "--endpoint", name+"=unix://"+socket, "--processes", name+"=cricketd,cricket-monitor")
		if handler != "" {
			args = append(args, "--handler", name+"="+handler, "--processes", name+"=qemu-system-x86_64")
		}
	}
	return args
}

func (o options) cricket(ctx context.Context, registry string) (*harness.Daemon, error) {
	more := []string{"--log-level", "info"} // as in production
	if o.config != "" {
		more = append(more, "--config", o.config)
	}
	return start(ctx, kernelPods, registry, harness.Cricketd(filepath.Join(o.bin, "cricketd"), more...))
}

// start starts a daemon in directories of its own.
func start(ctx context.Context, name, registry string, s harness.Starter) (*harness.Daemon, error) {
	paths, err := harness.MakePaths(filepath.Join(harness.Dir(), name), registry)
	if err != nil {
		return nil, err
	}
	d := harness.NewDaemon(paths, s)
	if err := d.Start(ctx); err != nil {
		log, _ := os.ReadFile(paths.Log)
		return nil, fmt.Errorf("%s: %w\n%s", name, err, log)
	}
	return d, nil
}

// stockTime is how long a daemon may take to make a template and its stock of machines.
const stockTime = 2 * time.Minute

// stocked waits until the daemon keeps as many machines ready as it is to.
func stocked(ctx context.Context, d *harness.Daemon) error {
	conn, err := d.Dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	client := cri.NewRuntimeServiceClient(conn)
	for end := time.Now().Add(stockTime); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		s, err := client.Status(ctx, &cri.StatusRequest{})
		if err != nil {
			return err
		}
		for _, c := range s.GetStatus().GetConditions() {
			if c.GetType() == "VirtualMachinesReady" && c.GetReason() == "Ready" && full(c.GetMessage()) {
				say("%s: %s", c.GetType(), c.GetMessage())
				return nil
			}
		}
	}
	log, _ := os.ReadFile(d.Paths.Log)
	return errors.New("no virtual machines:\n" + string(log))
}

// full tells whether a condition's message says that no machine is missing in the stock.
func full(message string) bool {
	var parked, size int
	_, err := fmt.Sscanf(message[strings.LastIndex(message, ";")+1:], " %d of %d machines wait", &parked, &size)
	return err == nil && parked == size
}
