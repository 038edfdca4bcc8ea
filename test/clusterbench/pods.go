package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/cricket-cri/cricket/test/cluster"
	"github.com/cricket-cri/cricket/test/images"
)

// series are the times of one measurement's rounds, in seconds.
type series []float64

func (s series) median() float64 {
	sorted := slices.Sorted(slices.Values(s))
	return sorted[len(sorted)/2]
}

// limit is how long one round may take.
const limit = 10 * time.Minute

// rounded runs all rounds and returns the times by name.
func (o options) rounded(ctx context.Context, c *cluster.Cluster) (map[string]series, error) {
	classes := []string{""}
	if o.vm && o.only == cluster.Cricket {
		classes = append(classes, "vm")
	}
	times := map[string]series{}
	for _, class := range classes {
		for _, n := range []int{1, o.pods} {
			for round := range o.roundsOf(class, n) + 1 {
				name := fmt.Sprintf("%s%d", class, n)
				started, deleted, err := once(ctx, c, class, name, n)
				if err != nil {
					return nil, err
				}
				note("%s %s: %d pods started in %.2f s, deleted in %.2f s", o.only, class, n, started, deleted)
				if round == 0 {
					continue // it pulls the image
				}
				times[name+" start"] = append(times[name+" start"], started)
				times[name+" delete"] = append(times[name+" delete"], deleted)
			}
		}
	}
	return times, nil
}

// roundsOf is how often n pods of a class are made: many machines take minutes where they are
// emulated, and have no bound but that none fails.
func (o options) roundsOf(class string, n int) int {
	if class == "vm" && n > 1 {
		return 1
	}
	return o.rounds
}

// once makes n pods at once for a measurement and deletes them, and returns how long each
// took, in seconds.
func once(ctx context.Context, c *cluster.Cluster, class, measurement string, n int) (started, deleted float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	pods := c.Client.CoreV1().Pods("default")
	w, err := pods.Watch(ctx, metav1.ListOptions{LabelSelector: "bench=pod"})
	if err != nil {
		return 0, 0, err
	}
	defer w.Stop()
	began := time.Now()
	err = each(n, func(i int) error {
		_, err := pods.Create(ctx, pod(podName(measurement, i), class), metav1.CreateOptions{})
		return err
	})
	if err == nil {
		err = seen(ctx, w, n, func(e watch.Event) bool {
			p, ok := e.Object.(*corev1.Pod)
			return ok && p.Status.Phase == corev1.PodRunning
		})
	}
	started = time.Since(began).Seconds()
	if err != nil {
		return started, 0, err
	}
	began = time.Now()
	err = each(n, func(i int) error { return pods.Delete(ctx, podName(measurement, i), metav1.DeleteOptions{}) })
	if err == nil {
		err = seen(ctx, w, n, func(e watch.Event) bool { return e.Type == watch.Deleted })
	}
	return started, time.Since(began).Seconds(), err
}

// each calls f with every number below n, ten at a time.
func each(n int, f func(int) error) error {
	var g errgroup.Group
	g.SetLimit(10)
	for i := range n {
		g.Go(func() error { return f(i) })
	}
	return g.Wait()
}

// seen waits until so many pods are as is says.
func seen(ctx context.Context, w watch.Interface, n int, is func(watch.Event) bool) error {
	done := map[string]bool{}
	for len(done) < n {
		select {
		case e, ok := <-w.ResultChan():
			if !ok {
				return fmt.Errorf("the watch ended after %d pods of %d", len(done), n)
			}
			if p, ok := e.Object.(*corev1.Pod); ok && is(e) {
				done[p.Name] = true
			}
		case <-ctx.Done():
			return fmt.Errorf("%d pods of %d: %w", len(done), n, ctx.Err())
		}
	}
	return nil
}

func pod(name, class string) *corev1.Pod {
	grace := int64(1)
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"bench": "pod"}},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: &grace,
			Containers:                    []corev1.Container{{Name: "app", Image: images.Pause}},
		},
	}
	if class != "" {
		p.Spec.RuntimeClassName = &class
	}
	return p
}

// table prints the medians side by side.
func table(cricket, containerd map[string]series) {
	fmt.Printf("%-14s %12s %12s %8s\n", "median, s", "cricket", "containerd", "factor")
	names := make([]string, 0, len(cricket))
	for name := range cricket {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		other, ok := containerd[name]
		if !ok {
			fmt.Printf("%-14s %12.2f\n", name, cricket[name].median())
			continue
		}
		fmt.Printf("%-14s %12.2f %12.2f %8.2f\n", name, cricket[name].median(), other.median(), cricket[name].median()/other.median())
	}
}
