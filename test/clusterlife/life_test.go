package clusterlife

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// root is the project's directory: tests run in their package's.
const root = "../.."

// command makes a command in the project's directory, as people give it there: without the
// variables by which the make that runs this test, if one does, tells others of itself and has
// the test built.
func command(ctx context.Context, words ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, words[0], words[1:]...)
	c.Dir = root
	c.Env = slices.DeleteFunc(c.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "MAKE") || strings.HasPrefix(v, "MFLAGS=") || strings.HasPrefix(v, "CGO_ENABLED=")
	})
	return c
}

// tool runs a command and returns its output.
func tool(t *testing.T, limit time.Duration, words ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	out, err := command(ctx, words...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(words, " "), err, out)
	}
	return string(out)
}

// Commands of the README, and of docs/kubernetes.md.
var (
	makeUp       = []string{"make", "cluster"}
	makeDown     = []string{"make", "cluster-down"}
	containerdUp = []string{"go", "run", "./hack/cluster", "--runtime", "containerd", "up"}
	shell        = []string{"go", "run", "./hack/cluster", "shell"}
)

// down removes the cluster. The first one builds what it needs for that.
func down(t *testing.T) {
	t.Helper()
	tool(t, 10*time.Minute, makeDown...)
}

// up starts a cluster by the given command, which is gone when the test has ended, and makes
// it kubectl's.
func up(t *testing.T, words ...string) {
	t.Helper()
	t.Cleanup(func() {
		if out, err := command(context.Background(), makeDown...).CombinedOutput(); err != nil {
			t.Errorf("down: %v\n%s", err, out)
		}
	})
	t.Log(tool(t, time.Hour, words...))
	config, err := filepath.Abs(filepath.Join(root, ".cache/cluster/kubeconfig"))
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("KUBECONFIG", config)
}

func kubectl(t *testing.T, args ...string) string {
	t.Helper()
	return tool(t, 5*time.Minute, append([]string{"bin/kubectl"}, args...)...)
}

// deployment has a pod in the hull that it is called after.
const deployment = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: HULL}
spec:
  selector: {matchLabels: {app: HULL}}
  template:
    metadata: {labels: {app: HULL}}
    spec:
      CLASS
      containers: [{name: app, image: "registry.k8s.io/e2e-test-images/busybox:1.29-2", command: [sleep, "NAP"]}]
`

// deploy makes a Deployment in each hull, waits for them and executes a command in them.
func deploy(t *testing.T, hulls ...string) {
	t.Helper()
	for _, hull := range hulls {
		class := ""
		if hull == "vm" {
			class = "runtimeClassName: vm"
		}
		text := strings.NewReplacer("HULL", hull, "CLASS", class, "NAP", nap).Replace(deployment)
		file := filepath.Join(t.TempDir(), "deployment.yaml")
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		kubectl(t, "apply", "-f", file)
	}
	for _, hull := range hulls {
		kubectl(t, "rollout", "status", "deployment/"+hull, "--timeout", "4m")
		t.Log(kubectl(t, "exec", "deployment/"+hull, "--", "uname", "-r"))
	}
}

// pods fails the test if there are fewer in the node.
func pods(t *testing.T, least int) {
	t.Helper()
	out := tool(t, 2*time.Minute, slices.Concat(shell, []string{"ls", "/var/lib/kubelet/pods"})...)
	if len(strings.Fields(out)) < least {
		t.Errorf("in the node there are the pods %q", out)
	}
}

// TestUpAndDown: what the README says of make cluster and make cluster-down.
func TestUpAndDown(t *testing.T) {
	down(t)
	before := observe(t)
	up(t, makeUp...)
	deploy(t, "kernel", "vm")
	pods(t, 3) // CoreDNS is one
	down(t)
	same(t, before)
}

// TestContainerd: the same on the runtime that Cricket is compared with.
func TestContainerd(t *testing.T) {
	down(t)
	before := observe(t)
	up(t, containerdUp...)
	deploy(t, "kernel")
	pods(t, 2)
	if version := kubectl(t, "get", "nodes", "-o", "jsonpath={.items[*].status.nodeInfo.containerRuntimeVersion}"); !strings.HasPrefix(version, "containerd://") {
		t.Errorf("the node runs %q", version)
	}
	down(t)
	same(t, before)
}

// TestHolderKilled: the process that holds the node is killed, and all goes with it but
// what down removes.
func TestHolderKilled(t *testing.T) {
	down(t)
	before := observe(t)
	up(t, makeUp...)
	data, err := os.ReadFile(filepath.Join(root, ".cache/cluster/node.json"))
	if err != nil {
		t.Fatal(err)
	}
	var r struct{ Pid int }
	if err := json.Unmarshal(data, &r); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(r.Pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	down(t)
	same(t, before)
}
