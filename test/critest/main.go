// Critest runs CRI's conformance suite against a runtime in a private node and fails
// unless every spec passed or is one that skips.txt lists:
//
//	go run ./test/critest --cricketd bin/cricketd
//	go run ./test/critest --runtime containerd     # shows that the images are honest
//	go run ./test/critest --hull vm --kernel debian # every pod is a virtual machine
//	go run ./test/critest --critest 1.37.0         # the next version, with its specs for NRI plugins
//	go run ./test/critest --focus 'Networking'     # a few specs, while developing
//	go run ./test/critest --shell bash             # no suite: a shell in the node
//	go run ./test/critest --bundle DIR             # no suite: what another machine needs
//	DIR/tools/critest-runner --endpoint unix:///run/cricket/cricket.sock   # there
//
// Before and after the suite it lists the node's mounts, processes, links, cgroups,
// leases and firewall rules; what the runtime left behind is a failure too. cricketd
// is stopped for that: machines that it keeps ready for pods are its own. The last line is
// "N passed, N failed, N skipped".
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

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
	runtime, cricketd, hull string
	kernel, critest         string
	focus, skip, shell      string
	cache, reports          string
	bundle, endpoint        string
	repeat                  int
	arguments               []string // for the daemon
}

func main() { harness.Main("critest", run) }

func run() (int, error) {
	o := parse()
	switch {
	case o.endpoint != "":
		return against(o)
	case o.bundle != "":
		if err := harness.Outside(o.prepare); err != nil {
			return 1, err
		}
		return 0, bundle(o.bundle)
	}
	return harness.InNode(o.prepare, func(ctx context.Context) (int, error) { return inside(ctx, o) })
}

func parse() options {
	var o options
	flag.StringVar(&o.runtime, "runtime", "cricket", "cricket or containerd")
	flag.StringVar(&o.cricketd, "cricketd", "bin/cricketd", "the daemon's binary")
	flag.StringVar(&o.hull, "hull", "", "vm: every pod is a virtual machine, by its handler or as the daemon's default")
	flag.StringVar(&o.kernel, "kernel", "", "name of the kernel in bin/guest that virtual machines boot; empty: the one that the daemon prefers")
	flag.StringVar(&o.critest, "critest", tools.CritestVersion, "version of the suite: "+tools.CritestVersion+" or "+tools.NextCritestVersion)
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

// prepare builds what the suite needs.
func (o options) prepare(ctx context.Context) (map[string]string, error) {
	set, err := images.Build(ctx, images.Options{Cache: o.cache, Say: say})
	if err != nil {
		return nil, err
	}
	digest, err := set.Digest(images.DigestImage)
	if err != nil {
		return nil, err
	}
	tool, err := tools.Critest(o.critest, digest.String())
	if err != nil {
		return nil, err
	}
	b := tools.Builder{Cache: o.cache, Say: say}
	critest, err := b.Build(ctx, tool)
	if err != nil {
		return nil, err
	}
	crictl, err := b.Build(ctx, tools.Crictl())
	if err != nil {
		return nil, err
	}
	env := map[string]string{critestEnv: critest, imagesEnv: set.Dir(), crictlEnv: crictl, "PATH": filepath.Dir(crictl) + ":" + os.Getenv("PATH")}
	if o.runtime == "containerd" {
		env[runtimeEnv], env[runcEnv], err = b.Peer(ctx)
	} else {
		env[runtimeEnv], err = filepath.Abs(o.cricketd)
	}
	return env, err
}

func say(format string, args ...any) { fmt.Printf(format+"\n", args...) }

// starter is the runtime that was asked for.
func (o options) starter() (harness.Starter, error) {
	switch o.runtime {
	case "cricket":
		return o.cricket(), nil
	case "containerd":
		return harness.Containerd(os.Getenv(runtimeEnv), os.Getenv(runcEnv)), nil
	default:
		return nil, fmt.Errorf("no runtime is called %s", strconv.Quote(o.runtime))
	}
}

// hullVM is the hull, and the runtime handler, of virtual machines.
const hullVM = "vm"

// cricket starts cricketd with the configuration that the suite needs.
func (o options) cricket() harness.Starter {
	return func(p harness.Paths) (*exec.Cmd, error) {
		args := o.arguments
		if text := o.configuration(); text != "" {
			config := filepath.Join(p.Dir, "config.toml")
			if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
				return nil, err
			}
			args = append([]string{"--config", config}, args...)
		}
		return harness.Cricketd(os.Getenv(runtimeEnv), args...)(p)
	}
}

// configuration is cricketd's, empty where the default is right.
func (o options) configuration() (text string) {
	if o.hull == hullVM { // the default handler too, for specs that name none
		text += fmt.Sprintf("default_runtime = \"vm\"\n[vm]\nkernel = %q\n", o.kernel)
	}
	if o.asPlugin() {
		text += "[nri]\nrequest_timeout = \"" + patience + "\"\n"
	}
	return text
}

// asPlugin tells whether specs connect to the runtime as NRI plugins.
func (o options) asPlugin() bool { return o.critest != tools.CritestVersion }

const (
	// nriSocket is where runtimes let plugins connect unless told otherwise; in the node it
	// is the node's own.
	nriSocket = "/var/run/nri/nri.sock"
	// patience is how long a runtime waits for a plugin. Two specs let it wait for two
	// seconds, which is when it would drop the plugin by default: the spec skips itself then.
	patience = "10s"
)

func (o options) handler() string { return o.hull }

// name is the beginning of the names of what is kept of a run.
func (o options) name() string {
	name := o.runtime
	if o.hull != "" {
		name += "-" + o.hull
	}
	if o.critest != tools.CritestVersion {
		name += "-" + o.critest
	}
	return name
}

// refusals lists what the hull has to refuse.
func (o options) refusals() string {
	if o.hull == hullVM {
		return refusalsVM
	}
	return ""
}
