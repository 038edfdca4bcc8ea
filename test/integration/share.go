package integration

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// For is the node for a subtest that shares it with others.
func (n *Node) For(t *testing.T) *Node {
	shared := *n
	recorder.Test(t)
	shared.connect(t)
	return &shared
}

// Together runs tests side by side on one node.
func (n *Node) Together(tests map[string]func(t *testing.T, n *Node)) {
	n.t.Helper()
	n.t.Run("together", func(t *testing.T) {
		for name, test := range tests {
			t.Run(name, func(t *testing.T) {
				recorder.Test(t)
				applies(t)
				t.Parallel()
				test(t, n.For(t))
			})
		}
	})
}

// WantCode fails the test unless err is a status of one of the codes.
func WantCode(t *testing.T, err error, want ...codes.Code) {
	t.Helper()
	for _, c := range want {
		if status.Code(err) == c {
			return
		}
	}
	t.Errorf("the answer is %v (%v), want %v", status.Code(err), err, want)
}

// Within calls f until it is true.
func Within(t *testing.T, limit time.Duration, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !f(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s", what, limit)
		}
	}
}

// AllOf calls f count times at once and returns the results in no order.
func AllOf[T any](count int, f func(i int) T) []T {
	results := make([]T, count)
	var wg sync.WaitGroup
	for i := range count {
		wg.Go(func() { results[i] = f(i) })
	}
	wg.Wait()
	return results
}

// Sleeper runs a pod with one container that waits for its end.
func (n *Node) Sleeper() (pod, container string, p *cri.PodSandboxConfig) {
	n.t.Helper()
	p = n.PodConfig()
	pod = n.RunPod(p)
	return pod, n.Run(pod, p, "sleep", "3600"), p
}

// Started creates and starts a container and returns its id.
func (n *Node) Started(pod string, p *cri.PodSandboxConfig, c *cri.ContainerConfig) string {
	n.t.Helper()
	id := n.Create(pod, p, c)
	n.StartContainer(id)
	return id
}

// Log is what a container wrote so far, in the format of the CRI.
func (n *Node) Log(p *cri.PodSandboxConfig, c *cri.ContainerConfig) string {
	n.t.Helper()
	data, err := os.ReadFile(filepath.Join(p.GetLogDirectory(), c.GetLogPath()))
	if err != nil {
		n.t.Fatal(err)
	}
	return string(data)
}

// NoPanic fails the test if the log of the daemon or of its monitor holds a panic or a
// data race.
func (n *Node) NoPanic() {
	n.t.Helper()
	for _, name := range []string{n.Paths.Log, filepath.Join(n.Paths.State, "monitor.log")} {
		data, err := os.ReadFile(name)
		if err != nil && !os.IsNotExist(err) {
			n.t.Error(err)
		}
		for _, sign := range []string{"msg=panic", "panic:", "DATA RACE", "fatal error:"} {
			if _, after, ok := strings.Cut(string(data), sign); ok {
				n.t.Errorf("%s has %s%.2000s", filepath.Base(name), sign, after)
			}
		}
	}
}

// short is a context for one call.
func short(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}
