// Upstream runs the conformance specs of Kubernetes' own suite that suit a cluster of one
// node: on Cricket's default hull, on Cricket with every pod a virtual machine, and on
// containerd, each in a private node of its own:
//
//	go run ./test/upstream                             # all three, and a table
//	go run ./test/upstream --only vm                   # one of kernel, vm and containerd
//	go run ./test/upstream --only kernel --focus DNS   # a few specs, while developing
//	go run ./test/upstream --table                     # no suite: the last runs' table
//
// left-out.txt lists the specs that one node cannot have, exceptions-vm.txt those that
// virtual machines have to fail, each with the reason. Other specs that fail, or skip
// themselves, fail a run, and so does one that was interrupted, that ran another number of
// specs than is known, or on vm no machine. All three together fail if Cricket does not pass
// what containerd passes, besides the exceptions, or if they did not run the same specs. A
// run's last line is "N passed, N failed, ...".
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/cricket-cri/cricket/hack/tools"
	"github.com/cricket-cri/cricket/test/cluster"
	"github.com/cricket-cri/cricket/test/harness"
	"github.com/cricket-cri/cricket/test/images"
)

// The variables by which the part outside the node tells the part inside what it built.
const (
	suiteEnv  = "CRICKET_TEST_E2E"
	ginkgoEnv = "CRICKET_TEST_GINKGO"
	commitEnv = "CRICKET_TEST_COMMIT"
)

// specsFailed is the exit code of a run whose results say what failed. Other codes mean that
// something else went wrong, of which the results may know nothing.
const specsFailed = 3

type options struct {
	cricketd, cache, reports string
	only, focus              string
	parallel                 int
	table                    bool
}

func main() { harness.Main("upstream", run) }

func run() (int, error) {
	var o options
	flag.StringVar(&o.cricketd, "cricketd", "bin/cricketd", "the daemon's binary")
	flag.StringVar(&o.cache, "cache", ".cache", "directory that keeps what was built")
	flag.StringVar(&o.reports, "reports", ".cache/reports/upstream", "directory for the results, the suite's output and the cluster's logs")
	flag.StringVar(&o.only, "only", "", "run the suite on kernel, vm or containerd alone")
	flag.StringVar(&o.focus, "focus", "", "run only specs that match this expression")
	flag.IntVar(&o.parallel, "parallel", 0, "specs that run at once; 0: what suits")
	flag.BoolVar(&o.table, "table", false, "run nothing: compare the results that are in the reports")
	flag.Parse()
	var err error
	// The suite has a working directory of its own.
	if o.reports, err = filepath.Abs(o.reports); err != nil {
		return 1, err
	}
	switch {
	case o.table:
		return o.compare()
	case o.only == "":
		return o.all()
	}
	s, err := find(o.only)
	if err != nil {
		return 1, err
	}
	prepare := func(ctx context.Context) (map[string]string, error) { return o.prepare(ctx, s) }
	code, err := harness.InNode(prepare, func(ctx context.Context) (int, error) { return o.inside(ctx, s) })
	if err != nil {
		code = 1 // also where specs failed besides: all looks at the code alone
	}
	return code, err
}

func say(format string, a ...any) { fmt.Printf(format+"\n", a...) }

// side is what the suite runs on.
type side struct {
	name, runtime string
	parallel      int    // specs that run at once
	machines      bool   // pods are virtual machines
	exceptions    string // a list of specs that have to fail
}

// sides are in the order of the table's columns. Emulated machines are slow together.
func sides() []side {
	return []side{
		{name: "kernel", runtime: cluster.Cricket, parallel: 4},
		{name: "vm", runtime: cluster.Cricket, parallel: 2, machines: true, exceptions: exceptionsVM},
		{name: "containerd", runtime: cluster.Containerd, parallel: 4},
	}
}

func find(name string) (side, error) {
	var names []string
	for _, s := range sides() {
		if s.name == name {
			return s, nil
		}
		names = append(names, s.name)
	}
	return side{}, fmt.Errorf("the suite does not run on %q: %s", name, strings.Join(names, ", "))
}

// all runs the suite on one side after the other and compares. That specs fail on a side
// says the comparison.
func (o options) all() (int, error) {
	var errs []error
	for _, s := range sides() {
		if err := os.RemoveAll(o.file(s)); err != nil {
			return 1, err
		}
		say("\n%s:", s.name)
		c := exec.Command("/proc/self/exe", append(os.Args[1:], "--only", s.name)...)
		c.Stdout, c.Stderr = os.Stdout, os.Stderr
		err := c.Run()
		if _, missing := os.Stat(o.file(s)); missing != nil {
			return 1, fmt.Errorf("run the suite on %s: %w", s.name, errors.Join(err, missing))
		}
		// The other sides take hours, and are worth running.
		if unexpected(err) {
			errs = append(errs, fmt.Errorf("run the suite on %s: %w", s.name, err))
		}
	}
	code, err := o.compare()
	return code, errors.Join(append(errs, err)...)
}

// unexpected tells whether a run has ended otherwise than with specs that failed.
func unexpected(err error) bool {
	var exit *exec.ExitError
	return err != nil && (!errors.As(err, &exit) || exit.ExitCode() != specsFailed)
}

// commit is what git says of the sources, in the way of the Makefile.
func commit(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "git", "describe", "--tags", "--always", "--dirty").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

// prepare builds what the suite needs.
func (o options) prepare(ctx context.Context, s side) (map[string]string, error) {
	b := tools.Builder{Cache: o.cache, Say: say}
	built := map[string]string{}
	for _, t := range []tools.Tool{tools.Kubernetes("test/images/agnhost"), tools.EndToEnd(), tools.Ginkgo()} {
		var err error
		if built[t.Name], err = b.Build(ctx, t); err != nil {
			return nil, err
		}
	}
	with := images.Options{Cache: o.cache, Say: say}
	base, err := images.Build(ctx, with)
	if err != nil {
		return nil, err
	}
	set, err := images.BuildConformance(ctx, with, base, images.Programs{Agnhost: built["agnhost"], AgnhostVersion: tools.AgnhostVersion})
	if err != nil {
		return nil, err
	}
	env, err := cluster.Prepare(ctx, cluster.Sources{
		Runtime: s.runtime, Cricketd: o.cricketd, Cache: o.cache, Say: say, Images: []*images.Set{set},
	})
	if err != nil {
		return nil, err
	}
	env[suiteEnv], env[ginkgoEnv], env[commitEnv] = built["e2e.test"], built["ginkgo"], commit(ctx)
	return env, nil
}
