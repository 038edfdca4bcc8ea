package clusterlife

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/test/harness"
)

// root is the project's directory: tests run in their package's.
const root = "../.."

// ours are the processes that a cluster may have left.
var ours = regexp.MustCompile(`^process .*(cricket|kube|etcd|coredns|qemu|pause|agnhost)`)

// observe lists what the machine holds.
func observe(t *testing.T) harness.Snapshot {
	t.Helper()
	s, err := harness.Observe()
	if err != nil {
		t.Fatal(err)
	}
	for line := range s {
		if strings.HasPrefix(line, "process ") && !ours.MatchString(line) {
			delete(s, line)
		}
	}
	for _, name := range []string{"vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys"} {
		data, err := os.ReadFile(filepath.Join("/proc/sys", name))
		if err != nil {
			t.Fatal(err)
		}
		s["setting "+name+" "+string(data)]++
	}
	dirs, err := filepath.Glob("/var/tmp/cricket-node-*")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range dirs {
		s["directory "+d]++
	}
	return s
}

// tool runs a command in the project's directory and returns its output.
func tool(t *testing.T, limit time.Duration, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	c := exec.CommandContext(ctx, name, args...)
	c.Dir = root
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// program builds hack/cluster.
func program(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "cluster")
	tool(t, 10*time.Minute, "go", "build", "-o", path, "./hack/cluster")
	return path
}

// up starts a cluster, which is gone when the test has ended. It returns the kubeconfig.
func up(t *testing.T, program string) string {
	t.Helper()
	t.Cleanup(func() {
		c := exec.Command(program, "down")
		c.Dir = root
		if out, err := c.CombinedOutput(); err != nil {
			t.Errorf("down: %v\n%s", err, out)
		}
	})
	t.Log(tool(t, time.Hour, program, "up"))
	return filepath.Join(root, ".cache/cluster/kubeconfig")
}

// same compares what the machine holds with what it held.
func same(t *testing.T, before harness.Snapshot) {
	t.Helper()
	after := observe(t)
	if left := before.Leaks(after); len(left) > 0 {
		t.Errorf("left behind:\n  %s", strings.Join(left, "\n  "))
	}
	if gone := after.Leaks(before); len(gone) > 0 {
		t.Errorf("taken away:\n  %s", strings.Join(gone, "\n  "))
	}
}

// deployment has a pod in either hull.
const deployment = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: kernel}
spec:
  selector: {matchLabels: {app: kernel}}
  template:
    metadata: {labels: {app: kernel}}
    spec:
      containers: [{name: app, image: "registry.k8s.io/e2e-test-images/busybox:1.29-2", command: [sleep, "3600"]}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: vm}
spec:
  selector: {matchLabels: {app: vm}}
  template:
    metadata: {labels: {app: vm}}
    spec:
      runtimeClassName: vm
      containers: [{name: app, image: "registry.k8s.io/e2e-test-images/busybox:1.29-2", command: [sleep, "3600"]}]
`

// TestUpAndDown: what make cluster promises.
func TestUpAndDown(t *testing.T) {
	p := program(t)
	tool(t, time.Minute, p, "down")
	before := observe(t)
	config := up(t, p)
	kubectl := func(args ...string) string {
		t.Helper()
		return tool(t, 5*time.Minute, "bin/kubectl", append([]string{"--kubeconfig", config[len(root)+1:]}, args...)...)
	}
	file := filepath.Join(t.TempDir(), "deployment.yaml")
	if err := os.WriteFile(file, []byte(deployment), 0o644); err != nil {
		t.Fatal(err)
	}
	kubectl("apply", "-f", file)
	for _, hull := range []string{"kernel", "vm"} {
		kubectl("rollout", "status", "deployment/"+hull, "--timeout", "4m")
		t.Log(kubectl("exec", "deployment/"+hull, "--", "uname", "-r"))
	}
	if out := tool(t, time.Minute, p, "shell", "ls", "/var/lib/kubelet/pods"); len(strings.Fields(out)) < 3 {
		t.Errorf("in the node there are the pods %q", out)
	}
	tool(t, 2*time.Minute, p, "down")
	same(t, before)
}

// TestHolderKilled: the process that holds the node is killed, and all goes with it but
// what down removes.
func TestHolderKilled(t *testing.T) {
	p := program(t)
	tool(t, time.Minute, p, "down")
	before := observe(t)
	up(t, p)
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
	tool(t, 2*time.Minute, p, "down")
	same(t, before)
}
