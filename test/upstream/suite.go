package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cricket-cri/cricket/test/cluster"
	"github.com/cricket-cri/cricket/test/images"
	"github.com/cricket-cri/cricket/test/specs"
)

// labels choose the specs: those of the groups whose specs make pods or talk to them, that
// run beside each other and that take no longer than five minutes.
const labels = "Conformance && (sig-node || sig-network || sig-cli || sig-storage || sig-apps) && !Serial && !Disruptive && !Slow"

// timeout ends the suite. Emulated machines take hours.
const timeout = 12 * time.Hour

// defaultClass makes every pod that has no runtime class, and can be one, a virtual machine.
//
//go:embed default-class.yaml
var defaultClass string

// inside runs the suite in the private node.
func (o options) inside(ctx context.Context, s side) (code int, err error) {
	if err := os.RemoveAll(o.dir(s)); err != nil {
		return 1, err
	}
	c, err := cluster.Start(ctx, cluster.Options{Logs: o.dir(s), Say: say})
	if err != nil {
		return 1, fmt.Errorf("%w; the logs are in %s", err, o.dir(s))
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if s.machines {
		if err := applyDefaultClass(ctx, c); err != nil {
			return 1, err
		}
	}
	l, err := readLists(s)
	if err != nil {
		return 1, err
	}
	r := results{Commit: os.Getenv(commitEnv), Date: time.Now(), Focus: o.focus}
	report, err := o.suite(ctx, c, s, l)
	if err != nil {
		return 1, err
	}
	r.Planned, r.Reasons, r.Specs = report.Planned, report.Reasons, chosen(report.Specs)
	if o.focus == "" {
		r.Stale = l.stale(report.Specs)
	}
	if s.machines {
		// Without the number the results of hours are incomplete, and not lost.
		if r.Machines, err = machines(ctx, c); err != nil {
			r.Reasons = append(r.Reasons, err.Error())
		}
		say("%d pods were virtual machines", r.Machines)
	}
	if err := o.save(s, r); err != nil {
		return 1, err
	}
	return l.report(s, r), nil
}

// suite runs the suite and returns what ginkgo says about every spec, chosen or not.
func (o options) suite(ctx context.Context, c *cluster.Cluster, s side, l lists) (r specs.Report, err error) {
	const report = "ginkgo.json"
	parallel := s.parallel
	if o.parallel > 0 {
		parallel = o.parallel
	}
	args := []string{
		"--procs", strconv.Itoa(parallel), "--timeout", timeout.String(), "--no-color",
		"--json-report", report, "--output-dir", o.dir(s), "--label-filter", labels,
	}
	for _, e := range l.leftOut {
		args = append(args, "--skip", e.Expr.String())
	}
	if o.focus != "" {
		args = append(args, "--focus", o.focus)
	}
	args = append(args, os.Getenv(suiteEnv), "--",
		"--kubeconfig", c.Kubeconfig, "--kubectl-path", c.Kubectl(ctx).Path, "--provider", "skeleton", "--num-nodes", "1")
	output, err := os.Create(filepath.Join(o.dir(s), "output.txt"))
	if err != nil {
		return r, err
	}
	defer output.Close()
	say("%d specs at once; the suite's output goes to %s", parallel, output.Name())
	g := exec.CommandContext(ctx, os.Getenv(ginkgoEnv), args...)
	g.Stdout, g.Stderr, g.Dir = output, output, o.dir(s)
	began := time.Now()
	runErr := g.Run()
	say("the suite ran for %s", time.Since(began).Round(time.Second))
	r, err = specs.ReadReport(filepath.Join(o.dir(s), report))
	if err != nil {
		return r, errors.Join(err, runErr)
	}
	return r, nil
}

// applyDefaultClass returns when the API server does what defaultClass says.
func applyDefaultClass(ctx context.Context, c *cluster.Cluster) error {
	if err := c.Apply(ctx, defaultClass); err != nil {
		return err
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "probe"}}
	pod.Spec.Containers = []corev1.Container{{Name: "probe", Image: images.Pause}}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) {
		p, err := c.Client.CoreV1().Pods("default").Create(ctx, pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if err == nil && p.Spec.RuntimeClassName == nil {
			err = errors.New("pods get no runtime class")
		}
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}
