package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cricket-cri/cricket/test/cluster"
)

// failed are the reasons of events by which the kubelet tells that a runtime could not do
// something, and that it will try again.
var failed = []string{"FailedCreatePodSandBox", "Failed", "BackOff", "FailedKillPod"}

// podName is what a measurement's pod is called.
func podName(measurement string, i int) string { return fmt.Sprintf("bench-%s-%d", measurement, i) }

// measurementOf is the inverse; other pods have none.
func measurementOf(pod string) string {
	name, ours := strings.CutPrefix(pod, "bench-")
	i := strings.LastIndexByte(name, '-')
	if !ours || i < 0 {
		return ""
	}
	return name[:i]
}

// failures are what went wrong with pods, by their measurement. The API server keeps events
// for an hour.
func failures(ctx context.Context, c *cluster.Cluster) (map[string][]string, error) {
	list, err := c.Client.CoreV1().Events("default").List(ctx, metav1.ListOptions{FieldSelector: "type=" + corev1.EventTypeWarning})
	if err != nil {
		return nil, fmt.Errorf("list what went wrong: %w", err)
	}
	return failuresOf(list.Items), nil
}

func failuresOf(events []corev1.Event) map[string][]string {
	all := map[string][]string{}
	for _, e := range events {
		name := measurementOf(e.InvolvedObject.Name)
		if name != "" && slices.Contains(failed, e.Reason) {
			all[name] = append(all[name], e.InvolvedObject.Name+": "+e.Reason+": "+e.Message)
		}
	}
	return all
}
