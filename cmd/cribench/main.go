// Cribench measures container runtimes through the CRI, and through nothing else, so
// that any of them can be measured:
//
//	cribench --endpoint cricket=unix:///run/cricket/cricket.sock \
//	         --endpoint containerd=unix:///run/containerd/containerd.sock \
//	         --processes cricket=cricketd,cricket-monitor \
//	         --processes containerd=containerd,containerd-shim-runc-v2 \
//	         --rounds 50 --parallel 8 --pods 30
//
// One runtime may be measured with several of its handlers, an endpoint for each:
//
//	cribench --endpoint shared=unix:///run/cricket/cricket.sock \
//	         --endpoint vm=unix:///run/cricket/cricket.sock --handler vm=vm
//
// Sequential rounds are interleaved between the endpoints, so that what else the machine
// does meets all alike; with --blocks an endpoint's rounds follow one another without a
// pause, as for a runtime that prepares pods while nothing is asked of it. A round is the
// life of one pod with one container, as a kubelet would lead it; every call is timed. With
// --parallel, that many lives are led at once. With --pods, that many pods are kept running
// and the memory of the named processes is read from smaps_rollup, before and after, and
// what the machine has left.
//
// With --throughput, so many pods of each endpoint in turn read the image's files, use a
// directory of the host, send and receive, and log. The program that does it there is this
// one, mounted into the pod: it has to be a static one, on the same machine as the runtime.
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
	hostNet    bool
	warmUp     int
	rounds     int
	blocks     bool
	execs      int
	parallel   int
	throughput int
	pods       int
	use        string
	jsonOutput bool
}

// endpoint is one runtime to measure, or one handler of it.
type endpoint struct {
	name, address string
	handler       string
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
	if len(args) > 0 && args[0] == "probe" {
		return probe(args[1:], out)
	}
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
	if err := rounds(ctx, o, each); err != nil {
		return err
	}
	if o.parallel > 0 {
		if err := each(func(b *bench) error { return b.burst(ctx, o.parallel) }); err != nil {
			return err
		}
	}
	for range o.throughput {
		if err := each(func(b *bench) error { return b.throughput(ctx) }); err != nil {
			return err
		}
	}
	if o.pods > 0 {
		return each(func(b *bench) error { return b.memory(ctx, o.pods) })
	}
	return nil
}

// rounds leads the sequential lives.
func rounds(ctx context.Context, o options, each func(func(*bench) error) error) error {
	turns, perTurn := o.warmUp+o.rounds, 1
	if o.blocks {
		turns, perTurn = 1, turns
	}
	for turn := range turns {
		err := each(func(b *bench) error {
			for i := range perTurn {
				if err := b.round(ctx, turn*perTurn+i >= o.warmUp); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func parse(args []string) (options, error) {
	o := options{}
	processes, handlers := map[string][]string{}, map[string]string{}
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
	f.Func("handler", "`[NAME=]HANDLER` of the pods of an endpoint, or of all that have none of their own; may be repeated", func(s string) error {
		name, handler, ok := strings.Cut(s, "=")
		if !ok {
			name, handler = "", s
		}
		handlers[name] = handler
		return nil
	})
	f.BoolVar(&o.hostNet, "host-network", false, "pods without a network of their own")
	f.IntVar(&o.warmUp, "warm-up", 3, "rounds that are not counted")
	f.IntVar(&o.rounds, "rounds", 20, "sequential rounds")
	f.BoolVar(&o.blocks, "blocks", false, "all sequential rounds of an endpoint before those of the next")
	f.IntVar(&o.execs, "execs", 3, "ExecSync calls in a round")
	f.IntVar(&o.parallel, "parallel", 0, "pods that are started, used and stopped at once")
	f.IntVar(&o.throughput, "throughput", 0, "pods of each endpoint in which throughput is measured")
	f.IntVar(&o.pods, "pods", 0, "pods that run while memory is read")
	f.StringVar(&o.use, "use", "", "shell `COMMAND` that each of --pods runs before memory is read once more")
	f.BoolVar(&o.jsonOutput, "json", false, "write JSON with every sample")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if len(o.endpoints) == 0 {
		return o, errors.New("no --endpoint")
	}
	if err := o.assign(handlers, processes); err != nil {
		return o, err
	}
	if slices.Min([]int{o.warmUp, o.rounds, o.execs, o.parallel, o.throughput, o.pods}) < 0 {
		return o, errors.New("counts are not negative")
	}
	return o, nil
}

// assign gives the endpoints what was said of them by name. Names are those of
// endpoints; the handler of no name is everybody's.
func (o *options) assign(handlers map[string]string, processes map[string][]string) error {
	known := map[string]bool{"": true}
	for i := range o.endpoints {
		e := &o.endpoints[i]
		if known[e.name] {
			return fmt.Errorf("--endpoint %s: two endpoints need two names", e.name)
		}
		known[e.name] = true
		e.processes = processes[e.name]
		e.handler = handlers[""]
		if own, ok := handlers[e.name]; ok {
			e.handler = own
		}
	}
	for name := range handlers {
		if !known[name] {
			return fmt.Errorf("--handler %s: no endpoint has this name", name)
		}
	}
	for name := range processes {
		if !known[name] || name == "" {
			return fmt.Errorf("--processes %s: no endpoint has this name", name)
		}
	}
	return nil
}
