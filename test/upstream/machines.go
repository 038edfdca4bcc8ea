package main

import (
	"context"
	"encoding/json"
	"fmt"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/test/cluster"
)

// machines counts the pods that the daemon gave a virtual machine since it was started, as a
// verbose status tells. A policy that has no effect any more would make the suite pass on the
// shared kernel, and nothing else would show it.
func machines(ctx context.Context, c *cluster.Cluster) (uint64, error) {
	conn, err := c.Runtime.Dial()
	if err != nil {
		return 0, fmt.Errorf("count the machines: %w", err)
	}
	defer conn.Close()
	status, err := cri.NewRuntimeServiceClient(conn).Status(ctx, &cri.StatusRequest{Verbose: true})
	if err != nil {
		return 0, fmt.Errorf("count the machines: %w", err)
	}
	return claims(status.GetInfo()["vm"])
}

// claims reads what a verbose status says of machines: vmsandbox/node's Status.
func claims(info string) (n uint64, err error) {
	var vm struct {
		Pool struct {
			Stats struct{ Claims map[string]uint64 }
		}
	}
	if err := json.Unmarshal([]byte(info), &vm); err != nil {
		return 0, fmt.Errorf("count the machines: the daemon says %q: %w", info, err)
	}
	for _, count := range vm.Pool.Stats.Claims {
		n += count
	}
	return n, nil
}
