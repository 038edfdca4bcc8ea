// Cluster starts a Kubernetes cluster of one node on this machine, in namespaces of its
// own, and removes it:
//
//	go run ./hack/cluster up                        # on Cricket, as make cluster does
//	go run ./hack/cluster --runtime containerd up
//	go run ./hack/cluster shell                     # a shell, or a command, in the node
//	go run ./hack/cluster down                      # leaves nothing behind
//
// The administrator's kubeconfig, the logs and what is known of the cluster that runs are
// below the cache, in cluster/. The API is reached through a port of the loopback address;
// all else of the cluster is in the node's namespaces.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/test/cluster"
	"github.com/cricket-cri/cricket/test/harness"
)

type options struct {
	runtime, cricketd, cache string
}

func main() { harness.Main("cluster", run) }

func run() (int, error) {
	var o options
	flag.StringVar(&o.runtime, "runtime", cluster.Cricket, "cricket or containerd")
	flag.StringVar(&o.cricketd, "cricketd", "bin/cricketd", "the daemon's binary")
	flag.StringVar(&o.cache, "cache", ".cache", "directory that keeps what was built, and the running cluster's files")
	flag.Parse()
	var err error
	// The node has directories of its own.
	if o.cache, err = filepath.Abs(o.cache); err != nil {
		return 1, err
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	switch flag.Arg(0) {
	case "up":
		return 0, o.up(ctx)
	case "down":
		return 0, o.down()
	case "shell":
		return o.shell(flag.Args()[1:])
	case "serve":
		stop() // Isolate looks after signals itself
		return o.serve()
	default:
		flag.Usage()
		return 2, fmt.Errorf("%q is not one of up, down and shell", flag.Arg(0))
	}
}

// dir holds the running cluster's files.
func (o options) dir() string { return filepath.Join(o.cache, "cluster") }

func (o options) file(name string) string { return filepath.Join(o.dir(), name) }

func say(format string, a ...any) { fmt.Fprintf(os.Stdout, format+"\n", a...) }
