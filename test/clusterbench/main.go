// Clusterbench measures how long a cluster of one node takes to start and to delete pods,
// on Cricket and then on containerd with runc, each in a private node of its own:
//
//	go run ./test/clusterbench --rounds 5 --pods 30
//	go run ./test/clusterbench --gate   # fails if a bound of gate.go is missed
//
// A time is from the first request until a watch has seen the last pod Running, or gone.
// The image is there, a service account's token is mounted. The last lines are a table of
// medians with the factor between the two, with --vm also of pods in virtual machines, and
// what became of every bound. Both kubelets have the same configuration, or nothing is said.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/cricket-cri/cricket/test/cluster"
	"github.com/cricket-cri/cricket/test/harness"
)

type options struct {
	cricketd, cache string
	only            string
	rounds, pods    int
	vm, gate        bool
}

// figures are what was measured on one runtime.
type figures struct {
	Kubelet string              // its configuration
	Times   map[string]series   // by what was measured
	Errors  map[string][]string // what went wrong with pods, by the measurement
}

func main() { harness.Main("clusterbench", run) }

func run() (int, error) {
	var o options
	flag.StringVar(&o.cricketd, "cricketd", "bin/cricketd", "the daemon's binary")
	flag.StringVar(&o.cache, "cache", ".cache", "directory that keeps what was built")
	flag.StringVar(&o.only, "only", "", "measure this runtime and print the figures as JSON")
	flag.IntVar(&o.rounds, "rounds", 5, "rounds of every measurement")
	flag.IntVar(&o.pods, "pods", 30, "pods that are made at once")
	flag.BoolVar(&o.vm, "vm", true, "measure virtual machines, too")
	flag.BoolVar(&o.gate, "gate", false, "fail if a bound is missed")
	flag.Parse()
	if o.only == "" {
		return o.both()
	}
	return harness.InNode(o.prepare, func(ctx context.Context) (int, error) { return 0, o.measure(ctx) })
}

// note tells of progress, apart from the figures.
func note(format string, a ...any) { fmt.Fprintf(os.Stderr, format+"\n", a...) }

func (o options) prepare(ctx context.Context) (map[string]string, error) {
	return cluster.Prepare(ctx, cluster.Sources{Runtime: o.only, Cricketd: o.cricketd, Cache: o.cache, Say: note})
}

// both measures one runtime after the other, prints the table and judges.
func (o options) both() (int, error) {
	cricket, err := other(cluster.Cricket)
	if err != nil {
		return 1, err
	}
	containerd, err := other(cluster.Containerd)
	if err != nil {
		return 1, err
	}
	fields, err := different(cricket.Kubelet, containerd.Kubelet)
	if err != nil {
		return 1, err
	}
	if len(fields) > 0 {
		return 1, fmt.Errorf("the kubelets are not configured alike: %s", strings.Join(fields, "; "))
	}
	table(cricket.Times, containerd.Times)
	code := 0
	for _, v := range judge(cricket, containerd) {
		fmt.Println(v)
		if !v.held && o.gate {
			code = 1
		}
	}
	return code, nil
}

// other measures a runtime in another process: a process has one node.
func other(runtime string) (f figures, err error) {
	c := exec.Command("/proc/self/exe", append(os.Args[1:], "--only", runtime)...)
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, os.Stderr
	if err := c.Run(); err != nil {
		return f, fmt.Errorf("measure %s: %w", runtime, err)
	}
	if err := json.Unmarshal(out.Bytes(), &f); err != nil {
		return f, fmt.Errorf("read the figures of %s: %w", runtime, err)
	}
	return f, nil
}

func (o options) measure(ctx context.Context) error {
	logs, err := filepath.Abs(filepath.Join(o.cache, "reports/clusterbench-"+o.only))
	if err != nil {
		return err
	}
	if err := os.RemoveAll(logs); err != nil {
		return err
	}
	c, err := cluster.Start(ctx, cluster.Options{Logs: logs, Say: note, Kubelet: gates})
	if err != nil {
		return err
	}
	defer c.Close()
	var f figures
	if f.Kubelet, err = configuration(ctx, c); err != nil {
		return err
	}
	if f.Times, err = o.rounded(ctx, c); err != nil {
		return err
	}
	if f.Errors, err = failures(ctx, c); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(f)
}
