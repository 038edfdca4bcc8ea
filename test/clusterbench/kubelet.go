package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/cricket-cri/cricket/test/cluster"
	"github.com/cricket-cri/cricket/test/harness"
)

// gates are the kubelet's on both runtimes. Left to itself, a cluster has them on on Cricket
// and off on containerd (test/cluster/node.go), and the difference would be counted against
// containerd: without EventedPLEG the kubelet sees that a container has ended at its next
// poll, within a second, and without PodAndContainerStatsFromCRI its cAdvisor follows every
// container beside the runtime. On for both, not off: containerd 2.4.2 serves
// GetContainerEvents and the calls for figures and metrics, so that neither loses anything,
// and it is how docs/kubernetes.md has people configure a node.
const gates = "featureGates: {PodAndContainerStatsFromCRI: true, EventedPLEG: true}"

// configuration is what the kubelet says of its own, as JSON. The node's directory has
// another name in every node.
func configuration(ctx context.Context, c *cluster.Cluster) (text string, err error) {
	err = harness.Until(ctx, 30*time.Second, func(ctx context.Context) error {
		data, err := c.Client.CoreV1().RESTClient().Get().Resource("nodes").Name(cluster.NodeName).SubResource("proxy").Suffix("configz").DoRaw(ctx)
		text = strings.ReplaceAll(string(data), harness.Dir(), "NODE")
		return err
	})
	if err != nil {
		return "", fmt.Errorf("ask the kubelet for its configuration: %w", err)
	}
	return text, nil
}

// different are the fields that are not the same in two answers of configuration.
func different(a, b string) (fields []string, err error) {
	var all [2]struct {
		KubeletConfig map[string]any
	}
	for i, text := range []string{a, b} {
		if err := json.Unmarshal([]byte(text), &all[i]); err != nil {
			return nil, fmt.Errorf("read a kubelet's configuration: %w", err)
		}
		if len(all[i].KubeletConfig) == 0 {
			return nil, fmt.Errorf("the kubelet says nothing of its configuration: %q", text)
		}
	}
	one, other := all[0].KubeletConfig, all[1].KubeletConfig
	names := maps.Clone(one)
	maps.Copy(names, other)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if !reflect.DeepEqual(one[name], other[name]) {
			fields = append(fields, fmt.Sprintf("%s is %v and %v", name, one[name], other[name]))
		}
	}
	return fields, nil
}
