package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"time"

	"github.com/cricket-cri/cricket/test/harness"
)

// stats waits until the summary has figures for the pod and its containers.
func (n *node) stats(ctx context.Context) error {
	return harness.Until(ctx, time.Minute, func(ctx context.Context) error {
		var s summary
		if err := n.kubelet.get(ctx, "/stats/summary", &s); err != nil {
			return err
		}
		for _, p := range s.Pods {
			if p.PodRef.Name == podName {
				return p.complete()
			}
		}
		return fmt.Errorf("the summary has %d pods, none is ours", len(s.Pods))
	})
}

// complete is an error if a figure is missing that must be there.
func (p podFigures) complete() error {
	var errs []error
	zero := func(what string, v uint64) {
		if v == 0 {
			errs = append(errs, fmt.Errorf("%s is 0", what))
		}
	}
	zero("the pod's processor time", p.CPU.UsageCoreNanoSeconds)
	zero("the pod's memory", p.Memory.WorkingSetBytes)
	if len(p.Containers) != 2 {
		errs = append(errs, fmt.Errorf("%d containers, want 2", len(p.Containers)))
	}
	for _, c := range p.Containers {
		zero("the processor time of "+c.Name, c.CPU.UsageCoreNanoSeconds)
		zero("the memory of "+c.Name, c.Memory.WorkingSetBytes)
		if c.Rootfs.UsedBytes == nil || c.Logs.UsedBytes == nil {
			errs = append(errs, fmt.Errorf("%s has no disk usage", c.Name))
		}
	}
	return errors.Join(errs...)
}

// metrics looks at what monitoring systems collect.
func (n *node) metrics(ctx context.Context) error {
	return harness.Until(ctx, time.Minute, func(ctx context.Context) error {
		data, err := n.kubelet.request(ctx, "GET", "/metrics/cadvisor")
		if err != nil {
			return err
		}
		var errs []error
		// Seconds of processor time are whole ones: there may be none yet.
		for m, value := range map[string]string{
			"container_cpu_usage_seconds_total": "[0-9]", "container_memory_working_set_bytes": "[1-9]", "container_start_time_seconds": "[1-9]",
		} {
			sample := regexp.MustCompile(m + `\{[^}]*container="app"[^}]*pod="` + podName + `"[^}]*\} ` + value)
			if !sample.Match(data) {
				errs = append(errs, fmt.Errorf("no %s of container app", m))
			}
		}
		if !regexp.MustCompile(`container_network_receive_bytes_total\{[^}]*pod="` + podName + `"`).Match(data) {
			errs = append(errs, errors.New("no received bytes of the pod"))
		}
		return errors.Join(errs...)
	})
}

// events looks at the kubelet's count of successful connections to the event stream.
func (n *node) events(ctx context.Context) error {
	data, err := n.kubelet.request(ctx, "GET", "/metrics")
	if err != nil {
		return err
	}
	if !regexp.MustCompile(`(?m)^kubelet_evented_pleg_connection_success_count [1-9]`).Match(data) {
		return errors.New("the kubelet never connected to the stream of events")
	}
	return nil
}
