package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

type options struct {
	endpoints []endpoint
	measure   []string
	image     string
	pullImage string
	hostNet   bool
	timeout   time.Duration

	warmUp, rounds int
	blocks         bool
	parallel       []int
	batch, batches int
	calls          int
	idle           time.Duration
	use            string
	repeat         int
	restarts       int
	churn          time.Duration
	workers        int

	from, json, markdown, plots, expect string
}

// endpoint is one runtime to measure, or one handler of it.
type endpoint struct {
	name, address string
	handler       string
	processes     []string // the daemon first
	restart       string   // shell command
	memoryPods    []int
	restartPods   int
	listPods      []int
}

// byName collects what flags say of endpoints by name; what they say without one is for all.
type byName map[string]string

func (m byName) set(s string) error {
	name, value, ok := strings.Cut(s, "=")
	if !ok {
		name, value = "", s
	}
	m[name] = value
	return nil
}

func (m byName) of(name, otherwise string) string {
	if v, ok := m[name]; ok {
		return v
	}
	if v, ok := m[""]; ok {
		return v
	}
	return otherwise
}

const introduction = `Cribench measures container runtimes through the CRI, several side by side:

  cribench --endpoint NAME=unix:///PATH [--endpoint ...] [flags]

The first endpoint is compared with the others. Its table goes to standard output,
progress to standard error. Pods and images of others are never touched, and its own are
removed at the end, also after Ctrl-C.

Sections (--measure):
`

// named is a flag that may be given for each endpoint, or for all of them.
type named struct {
	handlers, processes, restarts, memoryPods, restartPods, listPods byName
}

func (o *options) flags(f *flag.FlagSet) named {
	n := named{byName{}, byName{}, byName{}, byName{}, byName{}, byName{}}
	f.Func("endpoint", "`[NAME=]unix:///PATH` of a runtime to measure; may be repeated", func(s string) error {
		name, address, ok := strings.Cut(s, "=")
		if !ok {
			name, address = s, s
		}
		o.endpoints = append(o.endpoints, endpoint{name: name, address: address})
		return nil
	})
	f.Func("handler", "`[NAME=]HANDLER` of the pods of an endpoint, or of all that have none of their own", n.handlers.set)
	f.Func("processes", "`NAME=DAEMON[,PROGRAM|PID...]` whose memory and processor time are the endpoint's, the daemon first; may be repeated", func(s string) error {
		name, list, ok := strings.Cut(s, "=")
		if !ok {
			return errors.New("want NAME=PROGRAM or NAME=PID")
		}
		if n.processes[name] != "" {
			list = n.processes[name] + "," + list
		}
		n.processes[name] = list
		return nil
	})
	f.Func("restart", "`NAME=COMMAND` for a shell that restarts the daemon and ends when that is under way or done, as 'systemctl restart NAME'", n.restarts.set)
	f.Func("memory-pods", "`[NAME=]FEW,MANY` pods between which memory is compared (default 50,250)", n.memoryPods.set)
	f.Func("restart-pods", "`[NAME=]N` pods that a restarted daemon has to find again (default 200)", n.restartPods.set)
	f.Func("measure", "`SECTIONS`, separated by commas, or all (default start,exec,list)", func(s string) error {
		o.measure = strings.Split(s, ",")
		return nil
	})
	f.StringVar(&o.image, "image", "registry.k8s.io/e2e-test-images/busybox:1.29-2", "image with a shell, sleep, true and dd")
	f.StringVar(&o.pullImage, "pull-image", "", "image that is pulled and removed; no runtime may have it")
	f.BoolVar(&o.hostNet, "host-network", false, "pods without a network of their own")
	f.DurationVar(&o.timeout, "timeout", 5*time.Minute, "of every call")
	f.IntVar(&o.warmUp, "warm-up", 3, "rounds that are not counted")
	f.IntVar(&o.rounds, "rounds", 20, "sequential pods, and thrice as many execs")
	f.BoolVar(&o.blocks, "blocks", false, "all sequential pods of an endpoint before those of the next, rather than in turns")
	o.parallel = []int{1, 8, 32}
	f.Func("parallel", "`N,...` pods that are started and stopped at once (default 1,8,32)", func(s string) (err error) { o.parallel, err = counts(s); return err })
	f.IntVar(&o.batch, "batch", 48, "pods of a batch that is started and stopped in parallel, at least N")
	f.IntVar(&o.batches, "batches", 3, "batches for each N")
	f.Func("list-pods", "`[NAME=]N,...` pods that are there when lists are asked for (default 30)", n.listPods.set)
	f.IntVar(&o.calls, "calls", 200, "calls of every list")
	f.DurationVar(&o.idle, "idle", 30*time.Second, "for which processor time of idle pods is measured")
	f.StringVar(&o.use, "use", "", "shell `COMMAND` that each pod runs before memory is read once more")
	f.IntVar(&o.repeat, "repeat", 3, "pulls, logs, streams and other throughputs of each endpoint")
	f.IntVar(&o.restarts, "restarts", 3, "restarts of each daemon")
	f.DurationVar(&o.churn, "churn", time.Minute, "for which pods are created and removed")
	f.IntVar(&o.workers, "workers", 8, "pods that are led at once in the churn, and where many are made")
	f.StringVar(&o.json, "json", "", "`FILE` for the run with every sample as JSON; - is standard output, in the table's place")
	f.StringVar(&o.markdown, "markdown", "", "`FILE` for the table as Markdown")
	f.StringVar(&o.plots, "plots", "", "`DIR` for plots of distributions, an SVG a section")
	f.StringVar(&o.expect, "expect", "", "`FILE` of bounds; the program fails if one is not kept. A line is SECTION/NAME: ENDPOINT p50|p90|p99|min|max <=|>= NUMBER [* ENDPOINT | * best(ENDPOINT, ...)]")
	f.StringVar(&o.from, "from", "", "`FILE` that --json wrote: show it, and measure nothing")
	return n
}

// parse reads the command line. Help and mistakes are told on errs.
func parse(args []string, errs io.Writer) (options, error) {
	o := options{}
	f := flag.NewFlagSet("cribench", flag.ContinueOnError)
	f.SetOutput(errs)
	n := o.flags(f)
	f.Usage = func() {
		fmt.Fprint(errs, introduction)
		for _, s := range sections() {
			fmt.Fprintf(errs, "  %-9s %s\n", s.name, s.what)
		}
		fmt.Fprintln(errs, "\nFlags:")
		f.PrintDefaults()
	}
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("%q is no flag: see --help", f.Arg(0))
	}
	if o.from != "" {
		return o, nil
	}
	if len(o.endpoints) == 0 {
		return o, errors.New("no --endpoint: see --help")
	}
	if err := o.assign(n); err != nil {
		return o, err
	}
	if slices.Min([]int{o.warmUp, o.rounds, o.calls, o.repeat, o.restarts, o.batches}) < 0 {
		return o, errors.New("counts are not negative")
	}
	if o.workers < 1 || o.batch < 1 {
		return o, errors.New("--workers and --batch are at least 1")
	}
	return o, o.choose()
}

// choose checks the chosen sections. All are those for which everything is there.
func (o *options) choose() error {
	if len(o.measure) == 0 {
		o.measure = []string{"start", "exec", "list"}
	}
	if slices.Equal(o.measure, []string{"all"}) {
		o.measure = nil
		for _, s := range sections() {
			if s.missing(*o) == "" {
				o.measure = append(o.measure, s.name)
			}
		}
		return nil
	}
	for _, name := range o.measure {
		all := sections()
		i := slices.IndexFunc(all, func(s section) bool { return s.name == name })
		if i < 0 {
			return fmt.Errorf("--measure %s: no section has this name; see --help", name)
		}
		if why := all[i].missing(*o); why != "" {
			return fmt.Errorf("--measure %s: %s", name, why)
		}
	}
	return nil
}

// missing says what keeps a section from being measured of any endpoint.
func (s section) missing(o options) (why string) {
	for _, e := range o.endpoints {
		if s.lacks == nil {
			return ""
		}
		if why = s.lacks(o, e); why == "" {
			return ""
		}
	}
	return why
}

// assign gives the endpoints what was said of them by name.
func (o *options) assign(n named) error {
	known := map[string]bool{"": true}
	for i := range o.endpoints {
		e := &o.endpoints[i]
		if known[e.name] {
			return fmt.Errorf("--endpoint %s: two endpoints need two names", e.name)
		}
		known[e.name] = true
		e.handler, e.restart = n.handlers.of(e.name, ""), n.restarts[e.name]
		if list := n.processes[e.name]; list != "" {
			e.processes = strings.Split(list, ",")
		}
		var err error
		if e.memoryPods, err = counts(n.memoryPods.of(e.name, "50,250")); err != nil || len(e.memoryPods) != 2 || e.memoryPods[0] >= e.memoryPods[1] {
			return fmt.Errorf("--memory-pods: want FEW,MANY: %s", n.memoryPods.of(e.name, ""))
		}
		if e.restartPods, err = strconv.Atoi(n.restartPods.of(e.name, "200")); err != nil || e.restartPods < 1 {
			return fmt.Errorf("--restart-pods: want a count: %s", n.restartPods.of(e.name, ""))
		}
		if e.listPods, err = counts(n.listPods.of(e.name, "30")); err != nil {
			return fmt.Errorf("--list-pods: %w", err)
		}
	}
	for flag, m := range map[string]byName{
		"handler": n.handlers, "processes": n.processes, "restart": n.restarts, "memory-pods": n.memoryPods, "restart-pods": n.restartPods, "list-pods": n.listPods,
	} {
		for name := range m {
			if !known[name] || name == "" && (flag == "processes" || flag == "restart") {
				return fmt.Errorf("--%s %s: no endpoint has this name", flag, name)
			}
		}
	}
	return nil
}

// counts reads counts from 1, separated by commas.
func counts(s string) ([]int, error) {
	var all []int
	for part := range strings.SplitSeq(s, ",") {
		n, err := strconv.Atoi(part)
		if err != nil || n < 1 {
			return nil, fmt.Errorf("%q is no count", part)
		}
		all = append(all, n)
	}
	return all, nil
}
