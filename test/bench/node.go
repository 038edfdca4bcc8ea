package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/test/harness"
	"github.com/cricket-cri/cricket/test/images"
)

// gateArguments are what is measured as a gate: in two minutes, on a quiet machine. Figures
// that decide are ratios of what was measured in turns.
var gateArguments = []string{
	"--measure", "memory,start,exec,parallel,list,log,stream",
	"--warm-up", "1", "--rounds", "9", "--parallel", "8", "--batch", "16", "--batches", "2", "--list-pods", "10", "--calls", "20",
	"--memory-pods", "4,16", "--idle", "4s", "--repeat", "1",
}

// fullArguments are what the page is made of. Machines take memory by the dozen of MiB: there
// are fewer of them.
func (o options) fullArguments() []string {
	// Peers' daemons take gigabytes for 500 pods.
	args := []string{"--measure", "all", "--pull-image", images.Bulk, "--blocks", "--rounds", "50", "--list-pods", "30", "--list-pods", kernelPods + "=30,500"}
	if o.measures(vmPods) {
		args = append(args, "--memory-pods", vmPods+"=5,20", "--restart-pods", vmPods+"=20")
	}
	return args
}

// served is a daemon with the endpoints by which it is measured.
type served struct {
	handlers  map[string]string // by endpoint
	processes string            // what is its own, by name
	more      map[string]string // of an endpoint's alone
	start     func(ctx context.Context, registry string) (*harness.Daemon, error)
}

func (o options) daemons() []served {
	return []served{
		{
			handlers: map[string]string{kernelPods: "", vmPods: "vm"}, start: o.cricket,
			processes: "cricketd,cricket-monitor", more: map[string]string{vmPods: "qemu-system-x86_64"},
		},
		{handlers: map[string]string{peer: "runc", peerCrun: "crun"}, start: o.containerd, processes: "containerd,containerd-shim-runc-v2"},
		{handlers: map[string]string{peerCrio: "crun"}, start: o.crio, processes: "crio,conmon"},
	}
}

// inside starts the daemons and runs cribench beside them.
func (o options) inside(ctx context.Context) (err error) {
	registry, closeRegistry, err := serveImages()
	if err != nil {
		return err
	}
	defer closeRegistry()
	var args []string
	for _, s := range o.daemons() {
		if !o.measures(slices.Collect(maps.Keys(s.handlers))...) {
			continue
		}
		d, err := s.start(ctx, registry)
		if err != nil {
			return err
		}
		defer func() { _ = d.Kill() }()
		if args, err = o.endpoints(d, args, s); err != nil {
			return err
		}
	}
	if o.document != "" {
		return o.writeDocument(ctx, append(args, o.fullArguments()...))
	}
	if o.gate {
		args = append(append(args, gateArguments...), "--expect", filepath.Join(o.expectations, "gate.txt"))
	}
	return o.cribench(ctx, args)
}

// cribench runs the program; what the user gave comes last and wins.
func (o options) cribench(ctx context.Context, args []string) error {
	c := exec.CommandContext(ctx, filepath.Join(o.bin, "cribench"), append(args, o.arguments...)...)
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	c.Cancel = func() error { return c.Process.Signal(os.Interrupt) }
	return c.Run()
}

func serveImages() (registry string, end func(), err error) {
	set, err := images.Open(os.Getenv(imagesEnv))
	if err != nil {
		return "", nil, err
	}
	r := images.NewRegistry(set)
	if dir := os.Getenv(bulkEnv); dir != "" {
		bulk, err := images.Open(dir)
		if err != nil {
			return "", nil, err
		}
		r.AddSet(bulk)
	}
	server, registry, err := r.Serve("127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	return registry, func() { _ = server.Close() }, nil
}

// endpoints adds cribench's arguments for the endpoints of a daemon, in the order in which
// they are to be measured.
func (o options) endpoints(d *harness.Daemon, args []string, of served) ([]string, error) {
	restart, err := restartScript(d)
	if err != nil {
		return nil, err
	}
	for _, name := range o.only {
		handler, ok := of.handlers[name]
		if !ok {
			continue
		}
		list := of.processes
		if of.more[name] != "" {
			list += "," + of.more[name]
		}
		args = append(args, "--endpoint", name+"=unix://"+d.Paths.Socket, "--processes", name+"="+list,
			"--restart", name+"="+restart, "--handler", name+"="+handler)
	}
	return args, nil
}

// restartScript writes a script that kills a daemon that Start has started, as a crash would,
// and starts it again.
func restartScript(d *harness.Daemon) (string, error) {
	c, err := d.Command()
	if err != nil {
		return "", err
	}
	pid, script := filepath.Join(d.Paths.Dir, "pid"), filepath.Join(d.Paths.Dir, "restart")
	if err := os.WriteFile(pid, []byte(strconv.Itoa(d.Pid())), 0o644); err != nil {
		return "", err
	}
	var line strings.Builder
	for _, v := range c.Env { // none: the script's own
		if strings.HasPrefix(v, "PATH=") {
			line.WriteString("PATH=" + quote(strings.TrimPrefix(v, "PATH=")) + " ")
		}
	}
	line.WriteString(quote(c.Path))
	for _, arg := range c.Args[1:] {
		line.WriteString(" " + quote(arg))
	}
	text := fmt.Sprintf(`#!/bin/sh
pid=$(cat %[1]s)
kill -9 "$pid"
while kill -0 "$pid" 2>/dev/null; do sleep 0.001; done
%[2]s </dev/null >>%[3]s 2>&1 &
echo $! >%[1]s
`, quote(pid), line.String(), quote(d.Paths.Log))
	return script, os.WriteFile(script, []byte(text), 0o755)
}

// quote makes one word of a shell of s.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

func (o options) cricket(ctx context.Context, registry string) (*harness.Daemon, error) {
	more := []string{"--log-level", "info"} // as in production
	if o.config != "" {
		more = append(more, "--config", o.config)
	}
	bin := o.bin
	if !o.measures(vmPods) {
		var err error
		if bin, err = o.withoutGuest(); err != nil {
			return nil, err
		}
	}
	d, err := start(ctx, kernelPods, registry, withCrun(harness.Cricketd(filepath.Join(bin, "cricketd"), more...)))
	if err != nil || !o.measures(vmPods) {
		return d, err
	}
	if err := stocked(ctx, d); err != nil {
		return nil, errors.Join(err, d.Kill())
	}
	return d, nil
}

// withCrun has a daemon find the crun first that its peers are given. Without one of them it
// is the host's.
func withCrun(s harness.Starter) harness.Starter {
	crun := os.Getenv(crunEnv)
	if crun == "" {
		return s
	}
	return func(p harness.Paths) (*exec.Cmd, error) {
		c, err := s(p)
		if err == nil {
			c.Env = append(c.Environ(), "PATH="+filepath.Dir(crun)+":"+os.Getenv("PATH"))
		}
		return c, err
	}
}

func (o options) containerd(ctx context.Context, registry string) (*harness.Daemon, error) {
	runtimes := map[string]string{"runc": os.Getenv(runcEnv)}
	if o.measures(peerCrun) {
		runtimes["crun"] = os.Getenv(crunEnv)
	}
	return start(ctx, peer, registry, harness.ContainerdWith(os.Getenv(containerdEnv), runtimes))
}

func (o options) crio(ctx context.Context, registry string) (*harness.Daemon, error) {
	conmon, err := exec.LookPath("conmon")
	if err != nil {
		return nil, err
	}
	return start(ctx, peerCrio, registry, harness.Crio(os.Getenv(crioEnv), conmon, os.Getenv(crunEnv)))
}

// withoutGuest is a directory with Cricket's programs and no guest image beside them: no machine
// is made ready while others are measured.
func (o options) withoutGuest() (string, error) {
	bin := filepath.Join(harness.Dir(), "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return "", err
	}
	for _, name := range []string{"cricketd", "cricket-monitor"} {
		data, err := os.ReadFile(filepath.Join(o.bin, name))
		if err != nil {
			return "", err
		}
		if err := os.WriteFile(filepath.Join(bin, name), data, 0o755); err != nil {
			return "", err
		}
	}
	return bin, nil
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
