// Cribench measures container runtimes through the CRI, and through nothing else, so
// that any of them can be measured:
//
//	cribench --endpoint cricket=unix:///run/cricket/cricket.sock \
//	         --endpoint containerd=unix:///run/containerd/containerd.sock \
//	         --processes cricket=cricketd,cricket-monitor \
//	         --processes containerd=containerd,containerd-shim-runc-v2 \
//	         --rounds 50 --parallel 8 --pods 30
//
// Sequential rounds are interleaved between the endpoints, so that what else the
// machine does meets all alike. A round is the life of one pod with one container, as a
// kubelet would lead it; every call is timed. With --parallel, that many lives are led
// at once. With --pods, that many pods are kept running and the memory of the named
// processes is read from smaps_rollup, before and after.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

type options struct {
	endpoints  []endpoint
	image      string
	handler    string
	hostNet    bool
	warmUp     int
	rounds     int
	execs      int
	parallel   int
	pods       int
	jsonOutput bool
}

// endpoint is one runtime to measure.
type endpoint struct {
	name, address string
	processes     []string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout)
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "cribench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	results := make([]*result, len(o.endpoints))
	benches := make([]*bench, len(o.endpoints))
	for i, e := range o.endpoints {
		results[i] = newResult(e.name)
		if benches[i], err = newBench(ctx, e, o, results[i]); err != nil {
			return fmt.Errorf("%s: %w", e.name, err)
		}
		defer benches[i].close()
	}
	if err := measure(ctx, o, benches); err != nil {
		return err
	}
	if o.jsonOutput {
		return writeJSON(out, results)
	}
	return writeTable(out, results)
}

// measure runs every measurement on every endpoint, a round of each in turn.
func measure(ctx context.Context, o options, benches []*bench) error {
	each := func(f func(*bench) error) error {
		for _, b := range benches {
			if err := f(b); err != nil {
				return fmt.Errorf("%s: %w", b.endpoint.name, err)
			}
		}
		return nil
	}
	for i := range o.warmUp + o.rounds {
		if err := each(func(b *bench) error { return b.round(ctx, i >= o.warmUp) }); err != nil {
			return err
		}
	}
	if o.parallel > 0 {
		if err := each(func(b *bench) error { return b.burst(ctx, o.parallel) }); err != nil {
			return err
		}
	}
	if o.pods > 0 {
		return each(func(b *bench) error { return b.memory(ctx, o.pods) })
	}
	return nil
}

func parse(args []string) (options, error) {
	o := options{}
	processes := map[string][]string{}
	f := flag.NewFlagSet("cribench", flag.ContinueOnError)
	f.Func("endpoint", "`[NAME=]unix:///PATH` of a runtime to measure; may be repeated", func(s string) error {
		name, address, ok := strings.Cut(s, "=")
		if !ok {
			name, address = s, s
		}
		o.endpoints = append(o.endpoints, endpoint{name: name, address: address})
		return nil
	})
	f.Func("processes", "`NAME=PROGRAM|PID,...` whose memory counts as the endpoint's; may be repeated", func(s string) error {
		name, list, ok := strings.Cut(s, "=")
		if !ok {
			return errors.New("want NAME=PROGRAM or NAME=PID")
		}
		processes[name] = append(processes[name], strings.Split(list, ",")...)
		return nil
	})
	f.StringVar(&o.image, "image", "registry.k8s.io/e2e-test-images/busybox:1.29-2", "image with a shell")
	f.StringVar(&o.handler, "handler", "", "runtime handler of the pods")
	f.BoolVar(&o.hostNet, "host-network", false, "pods without a network of their own")
	f.IntVar(&o.warmUp, "warm-up", 3, "rounds that are not counted")
	f.IntVar(&o.rounds, "rounds", 20, "sequential rounds")
	f.IntVar(&o.execs, "execs", 3, "ExecSync calls in a round")
	f.IntVar(&o.parallel, "parallel", 0, "pods that are started, used and stopped at once")
	f.IntVar(&o.pods, "pods", 0, "pods that run while memory is read")
	f.BoolVar(&o.jsonOutput, "json", false, "write JSON with every sample")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if len(o.endpoints) == 0 {
		return o, errors.New("no --endpoint")
	}
	for i, e := range o.endpoints {
		o.endpoints[i].processes = processes[e.name]
		delete(processes, e.name)
	}
	for name := range processes {
		return o, fmt.Errorf("--processes %s: no endpoint has this name", name)
	}
	if slices.Min([]int{o.warmUp, o.rounds, o.execs, o.parallel, o.pods}) < 0 {
		return o, errors.New("counts are not negative")
	}
	return o, nil
}
