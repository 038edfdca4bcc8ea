package e2e

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// TestOOMKilled: a container that takes more memory than its limit is killed, and that is
// told.
func TestOOMKilled(t *testing.T) {
	onHulls(t, func(e *env) {
		e.pod("p", `
restartPolicy: Never
containers:
  - name: app
    image: BUSYBOX
    command: [sh, -c, "x=x; while :; do x=$x$x; done"]
    resources: {limits: {memory: 32Mi}}
`)
		p := e.ended("p")
		if s := container(p, "app").State.Terminated; s == nil || s.Reason != "OOMKilled" || s.ExitCode != 137 {
			e.t.Errorf("it ended with %+v", container(p, "app").State)
		}
		if out := e.kubectl("describe", "pod", "p"); !strings.Contains(out, "OOMKilled") || !strings.Contains(out, "137") {
			e.t.Errorf("it is described as\n%s", out)
		}
	})
}

// throttled is how often a container's cgroup was kept from running, in either version.
const throttled = "cat /sys/fs/cgroup/cpu.stat /sys/fs/cgroup/cpu/cpu.stat 2>/dev/null | awk '/nr_throttled/ {print $2}'"

// TestThrottling: a container that computes is kept to its limit.
func TestThrottling(t *testing.T) {
	onHulls(t, func(e *env) {
		e.pod("p", `
containers:
  - name: app
    image: BUSYBOX
    command: [sh, -c, "while :; do :; done"]
    resources: {limits: {cpu: 100m, memory: 64Mi}}
`)
		e.ready("p")
		e.eventually("it is throttled", func() error {
			out := strings.TrimSpace(e.exec("p", "app", throttled))
			if n, err := strconv.Atoi(out); err != nil || n < 5 {
				return fmt.Errorf("%q times", out)
			}
			return nil
		})
	})
}

// memoryLimit is a container's, as it sees it.
const memoryLimit = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || true"

// TestResize changes the limits of a running container.
func TestResize(t *testing.T) {
	onHulls(t, func(e *env) {
		e.pod("p", `
containers:
  - name: app
    image: BUSYBOX
    command: [sleep, "3600"]
    resources: {requests: {cpu: 50m, memory: 32Mi}, limits: {cpu: 100m, memory: 64Mi}}
`)
		e.ready("p")
		if got := strings.TrimSpace(e.exec("p", "app", memoryLimit)); got != "67108864" {
			e.t.Errorf("the limit is %s at first", got)
		}
		patch := `{"spec": {"containers": [{"name": "app", "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"cpu": "200m", "memory": "128Mi"}}}]}}`
		_, err := e.Client.CoreV1().Pods(e.ns).Patch(e.t.Context(), "p", types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "resize")
		e.ok(err)
		e.eventually("the limit is the new one", func() error {
			if got := strings.TrimSpace(e.exec("p", "app", memoryLimit)); got != "134217728" {
				return fmt.Errorf("it is %s", got)
			}
			return nil
		})
		e.eventually("the status tells the new one", func() error {
			p := e.get("p")
			s := container(p, "app")
			if s.Resources == nil || s.Resources.Limits.Memory().Value() != 128<<20 || s.Resources.Limits.Cpu().MilliValue() != 200 {
				return fmt.Errorf("it tells %+v", s.Resources)
			}
			for _, c := range p.Status.Conditions {
				if c.Type == corev1.PodResizeInProgress || c.Type == corev1.PodResizePending {
					return fmt.Errorf("the resize is not over: %+v", c)
				}
			}
			return nil
		})
		if s := container(e.get("p"), "app"); s.RestartCount != 0 {
			e.t.Errorf("it was restarted: %+v", s)
		}
	})
}

// TestPodResources: limits of a pod as a whole.
func TestPodResources(t *testing.T) {
	onHulls(t, func(e *env) {
		e.pod("p", `
restartPolicy: Never
resources: {requests: {memory: 32Mi}, limits: {memory: 64Mi, cpu: 500m}}
containers:
  - {name: good, image: BUSYBOX, command: [sh, -c, "sleep 5"]}
  - {name: bad, image: BUSYBOX, command: [sh, -c, "x=x; while :; do x=$x$x; done"]}
`)
		p := e.ended("p")
		if s := container(p, "bad").State.Terminated; s == nil || s.ExitCode != 137 {
			e.t.Errorf("the greedy container ended with %+v", container(p, "bad").State)
		}
	})
}
