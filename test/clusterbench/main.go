// Clusterbench measures how long a cluster of one node takes to start and to delete pods,
// on Cricket and then on containerd with runc, each in a private node of its own:
//
//	go run ./test/clusterbench --rounds 5 --pods 30
//
// A time is from the first request until a watch has seen the last pod Running, or gone.
// The image is there, a service account's token is mounted. The last lines are a table of
// medians with the factor between the two; with --vm also of pods in virtual machines.
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

	"github.com/cricket-cri/cricket/test/cluster"
	"github.com/cricket-cri/cricket/test/harness"
)

type options struct {
	cricketd, cache string
	only            string
	rounds, pods    int
	vm              bool
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
	flag.Parse()
	if o.only == "" {
		return 0, o.both()
	}
	return harness.InNode(o.prepare, func(ctx context.Context) (int, error) { return 0, o.measure(ctx) })
}

// note tells of progress, apart from the figures.
func note(format string, a ...any) { fmt.Fprintf(os.Stderr, format+"\n", a...) }

func (o options) prepare(ctx context.Context) (map[string]string, error) {
	return cluster.Prepare(ctx, cluster.Sources{Runtime: o.only, Cricketd: o.cricketd, Cache: o.cache, Say: note})
}

// both measures one runtime after the other and prints the table.
func (o options) both() error {
	figures := map[string]map[string]series{}
	for _, runtime := range []string{cluster.Cricket, cluster.Containerd} {
		c := exec.Command("/proc/self/exe", append(os.Args[1:], "--only", runtime)...)
		var out bytes.Buffer
		c.Stdout, c.Stderr = &out, os.Stderr
		if err := c.Run(); err != nil {
			return fmt.Errorf("measure %s: %w", runtime, err)
		}
		f := map[string]series{}
		if err := json.Unmarshal(out.Bytes(), &f); err != nil {
			return fmt.Errorf("read the figures of %s: %w", runtime, err)
		}
		figures[runtime] = f
	}
	table(figures[cluster.Cricket], figures[cluster.Containerd])
	return nil
}

func (o options) measure(ctx context.Context) error {
	logs, err := filepath.Abs(filepath.Join(o.cache, "reports/clusterbench-"+o.only))
	if err != nil {
		return err
	}
	if err := os.RemoveAll(logs); err != nil {
		return err
	}
	c, err := cluster.Start(ctx, cluster.Options{Logs: logs, Say: note})
	if err != nil {
		return err
	}
	defer c.Close()
	figures, err := o.rounded(ctx, c)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(figures)
}
