package workload

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/test/integration"
)

func TestMain(m *testing.M) {
	if err := os.Setenv(integration.HullEnv, "vm"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	integration.MainWithDebian(m)
}

// node is a node for a test's pods.
type node struct {
	*integration.Node
	t *testing.T
}

// pod is one pod with what its containers have in common.
type pod struct {
	n      *node
	id     string
	config *cri.PodSandboxConfig
}

func start(t *testing.T, pulled ...string) *node {
	t.Helper()
	n := &node{integration.Start(t), t}
	for _, image := range pulled {
		n.Pull(image)
	}
	return n
}

// run runs a pod, which change may change before.
func (n *node) run(change func(*cri.PodSandboxConfig)) *pod {
	n.t.Helper()
	c := n.PodConfig()
	if change != nil {
		change(c)
	}
	return &pod{n: n, id: n.RunPod(c), config: c}
}

// container starts a container of an image, which change may change before.
func (p *pod) container(image string, change func(*cri.ContainerConfig), command ...string) (string, *cri.ContainerConfig) {
	p.n.t.Helper()
	c := p.n.ContainerConfig(command...)
	c.Image.Image = image
	if change != nil {
		change(c)
	}
	return p.n.Started(p.id, p.config, c), c
}

// try runs a command of a container within a time and returns what it wrote and its exit
// code.
func (n *node) try(id string, limit time.Duration, command ...string) (output string, code int32) {
	n.t.Helper()
	r, err := n.Runtime.ExecSync(n.t.Context(), &cri.ExecSyncRequest{
		ContainerId: id, Cmd: command, Timeout: int64(limit / time.Second),
	})
	if err != nil {
		n.t.Fatalf("exec %v: %v", command, err)
	}
	return string(r.GetStdout()) + string(r.GetStderr()), r.GetExitCode()
}

// must is try for a command that has to exit with 0.
func (n *node) must(id string, limit time.Duration, command ...string) string {
	n.t.Helper()
	out, code := n.try(id, limit, command...)
	if code != 0 {
		n.t.Fatalf("exec %v: exit code %d\n%s", command, code, out)
	}
	return strings.TrimSpace(out)
}
