// Bench measures Cricket beside containerd: all run in one private node, with the same images
// and the same bridge network, and cribench drives them in one run. What follows "--" goes to
// cribench:
//
//	go run ./test/bench -- --measure start,exec --rounds 30
//	go run ./test/bench --config FILE --only cricket,vm -- --rounds 30
//	go run ./test/bench --gate
//	go run ./test/bench --trace -- --rounds 30
//	go run ./test/bench --document docs/benchmarks.md
//
// The endpoints are called cricket, vm (the same daemon, each pod a virtual machine),
// containerd (with runc), containerd-crun (the same containerd with crun) and crio (with crun).
// Whoever uses crun is given the same one, which hack/setup bench makes possible to build; with
// --gate Cricket uses the host's. cribench's --endpoint, --handler, --processes and --restart
// are given here.
//
// With --gate it measures a little of Cricket and containerd, and fails if what gate.txt
// expects is not so. With --document it measures everything of all, holds it against
// targets.txt, and writes the page with its plots. With --trace it starts pods of Cricket's
// alone, or machines with --only vm, with traces on, and prints where their time goes.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cricket-cri/cricket/hack/tools"
	"github.com/cricket-cri/cricket/test/harness"
	"github.com/cricket-cri/cricket/test/images"
)

// The variables by which the part outside the node tells the part inside what it built.
const (
	containerdEnv = "CRICKET_TEST_CONTAINERD"
	runcEnv       = "CRICKET_TEST_RUNC"
	crunEnv       = "CRICKET_TEST_CRUN"
	crioEnv       = "CRICKET_TEST_CRIO"
	imagesEnv     = "CRICKET_TEST_IMAGES"
	bulkEnv       = "CRICKET_TEST_BULK"
)

// Endpoints that can be measured.
const (
	kernelPods = "cricket"
	vmPods     = "vm"
	peer       = "containerd"
	peerCrun   = "containerd-crun"
	peerCrio   = "crio"
)

type options struct {
	bin, cache, config string
	only               []string
	whole              bool // only is everything
	gate, trace        bool
	document           string
	expectations       string   // directory of gate.txt and targets.txt
	arguments          []string // for cribench
}

func main() { harness.Main("bench", run) }

func run() (int, error) {
	o, err := parse()
	if err != nil {
		return 1, err
	}
	inside := o.inside
	if o.trace {
		inside = o.stages
	}
	return harness.InNode(o.prepare, func(ctx context.Context) (int, error) { return 0, inside(ctx) })
}

func parse() (options, error) {
	var o options
	all := []string{kernelPods, vmPods, peer, peerCrun, peerCrio}
	var only string
	flag.StringVar(&o.bin, "bin", "bin", "directory with cricketd, cricket-monitor, cribench and the guest image")
	flag.StringVar(&o.cache, "cache", ".cache", "directory that keeps what was built")
	flag.StringVar(&o.config, "config", "", "cricketd's configuration file; empty: its defaults")
	flag.StringVar(&only, "only", strings.Join(all, ","), "endpoints to measure; the first is compared with the others")
	flag.BoolVar(&o.gate, "gate", false, "measure a little of Cricket and containerd and expect gate.txt")
	flag.BoolVar(&o.trace, "trace", false, "measure the start of Cricket's pods and say which steps take how long")
	flag.StringVar(&o.document, "document", "", "page to write, its plots in a directory of its name")
	flag.StringVar(&o.expectations, "expectations", "test/bench", "directory of gate.txt and targets.txt")
	flag.Parse()
	switch {
	case o.gate:
		only = kernelPods + "," + peer
	case o.trace && only == strings.Join(all, ","):
		only = kernelPods
	}
	o.only, o.arguments = strings.Split(only, ","), flag.Args()
	o.whole = slices.Equal(o.only, all)
	for _, name := range o.only {
		if !slices.Contains(all, name) {
			return o, fmt.Errorf("--only %s: want some of %s", name, strings.Join(all, ","))
		}
	}
	for _, path := range []*string{&o.bin, &o.config, &o.document, &o.expectations} {
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
	build := images.Options{Cache: o.cache, Say: say}
	set, err := images.Build(ctx, build)
	if err != nil {
		return nil, err
	}
	env := map[string]string{imagesEnv: set.Dir()}
	if !o.gate && !o.trace {
		bulk, err := images.BuildBulk(ctx, build)
		if err != nil {
			return nil, err
		}
		env[bulkEnv] = bulk.Dir()
	}
	b := tools.Builder{Cache: o.cache, Say: say}
	if o.measures(peer, peerCrun) {
		if env[containerdEnv], env[runcEnv], err = b.Peer(ctx); err != nil {
			return nil, err
		}
	}
	if !o.gate {
		if env[crunEnv], err = b.Crun(ctx); err != nil {
			return nil, err
		}
	}
	if o.measures(peerCrio) {
		if env[crioEnv], err = b.Crio(ctx); err != nil {
			return nil, err
		}
	}
	return env, nil
}
