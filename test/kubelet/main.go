// Kubelet runs a standalone kubelet on cricketd in a private node and takes a static pod
// through its life:
//
//	go run ./test/kubelet --cricketd bin/cricketd
//
// The pod starts, a probe restarts one of its containers, the kubelet and cricketd are
// restarted under it, its log is rotated, and it is removed, after which nothing of it
// may be left. What the kubelet logged as a warning or an error meanwhile must be on a
// list of what is known not to be the runtime's doing. Each step is printed with the
// time since the start; the last line is "N passed, N failed".
package main

import (
	"context"
	"flag"
	"fmt"
	"path/filepath"

	"github.com/cricket-cri/cricket/hack/tools"
	"github.com/cricket-cri/cricket/test/harness"
	"github.com/cricket-cri/cricket/test/images"
)

// The variables by which the part outside the node tells the part inside what it built.
const (
	kubeletEnv  = "CRICKET_TEST_KUBELET"
	cricketdEnv = "CRICKET_TEST_RUNTIME"
	imagesEnv   = "CRICKET_TEST_IMAGES"
)

type options struct {
	cricketd, cache, reports string
	arguments                []string // for the daemon
}

func main() { harness.Main("kubelet", run) }

func run() (int, error) {
	var o options
	flag.StringVar(&o.cricketd, "cricketd", "bin/cricketd", "the daemon's binary")
	flag.StringVar(&o.cache, "cache", ".cache", "directory that keeps what was built")
	flag.StringVar(&o.reports, "reports", ".cache/reports", "directory for the logs of the kubelet and the daemon")
	flag.Parse()
	o.arguments = flag.Args()
	return harness.InNode(o.prepare, func(ctx context.Context) (int, error) { return inside(ctx, o) })
}

// prepare builds what the test needs.
func (o options) prepare(ctx context.Context) (map[string]string, error) {
	say := func(f string, a ...any) { fmt.Printf(f+"\n", a...) }
	set, err := images.Build(ctx, images.Options{Cache: o.cache, Say: say})
	if err != nil {
		return nil, err
	}
	kubelet, err := tools.Builder{Cache: o.cache, Say: say}.Build(ctx, tools.Kubelet())
	if err != nil {
		return nil, err
	}
	cricketd, err := filepath.Abs(o.cricketd)
	return map[string]string{kubeletEnv: kubelet, cricketdEnv: cricketd, imagesEnv: set.Dir()}, err
}
