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
		e.described("p", "OOMKilled", 137)
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

// cpuLimit is a container's in microseconds in 100 ms, as it sees it.
const cpuLimit = "cat /sys/fs/cgroup/cpu.max /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null | cut -d' ' -f1"

// TestResize changes the limits of running containers, up and down: without a restart, or
// with one where the container asks for it.
func TestResize(t *testing.T) {
	onHulls(t, func(e *env) {
		e.pod("p", `
containers:
  - name: app
    image: BUSYBOX
    command: [sleep, "3600"]
    resources: {requests: {cpu: 50m, memory: 32Mi}, limits: {cpu: 100m, memory: 64Mi}}
  - name: again
    image: BUSYBOX
    command: [sleep, "3600"]
    resizePolicy: [{resourceName: memory, restartPolicy: RestartContainer}]
    resources: {requests: {cpu: 50m, memory: 32Mi}, limits: {cpu: 100m, memory: 64Mi}}
`)
		e.ready("p")
		e.limited("p", "app", 100, 64)
		e.resize("p", "app", 200, 128)
		e.limited("p", "app", 200, 128)
		e.resize("p", "app", 150, 96)
		e.limited("p", "app", 150, 96)
		e.resize("p", "again", 200, 128)
		e.restarted("p", "again", 1)
		e.limited("p", "again", 200, 128)
		if s := container(e.get("p"), "app"); s.RestartCount != 0 {
			e.t.Errorf("it was restarted: %+v", s)
		}
	})
}

// resize asks for other limits of a container, in thousandths of a processor and MiB.
func (e *env) resize(pod, name string, cpu, memory int) {
	e.t.Helper()
	patch := fmt.Sprintf(`{"spec": {"containers": [{"name": %q, "resources": {"limits": {"cpu": "%dm", "memory": "%dMi"}}}]}}`, name, cpu, memory)
	_, err := e.Client.CoreV1().Pods(e.ns).Patch(e.t.Context(), pod, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "resize")
	e.ok(err)
}

// limited waits until a container has its limits, and its status tells them.
func (e *env) limited(pod, name string, cpu, memory int64) {
	e.t.Helper()
	e.eventually(fmt.Sprintf("%s has %dm and %d MiB", name, cpu, memory), func() error {
		out, err := e.try(pod, name, "sh", "-c", memoryLimit+"; "+cpuLimit)
		if got := strings.Fields(out); err != nil || fmt.Sprint(got) != fmt.Sprint([]int64{memory * mebi, cpu * 100}) {
			return fmt.Errorf("it has %q, %w", got, err)
		}
		return nil
	})
	e.eventually("the status tells them", func() error {
		p := e.get(pod)
		s := container(p, name)
		if s.Resources == nil || s.Resources.Limits.Memory().Value() != memory*mebi || s.Resources.Limits.Cpu().MilliValue() != cpu {
			return fmt.Errorf("it tells %+v", s.Resources)
		}
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodResizeInProgress || c.Type == corev1.PodResizePending {
				return fmt.Errorf("the resize is not over: %+v", c)
			}
		}
		return nil
	})
}

// TestPodResources: limits of a pod as a whole.
func TestPodResources(t *testing.T) {
	onHulls(t, func(e *env) {
		e.pod("p", `
restartPolicy: Never
resources: {requests: {memory: 32Mi}, limits: {memory: 64Mi, cpu: 500m}}
containers:
  - {name: good, image: BUSYBOX, command: [sh, -c, "sleep 20"]}
  - {name: bad, image: BUSYBOX, command: [sh, -c, "x=x; while :; do x=$x$x; done"]}
`)
		p := e.ended("p")
		if s := container(p, "bad").State.Terminated; s == nil || s.ExitCode != 137 {
			e.t.Errorf("the greedy container ended with %+v", container(p, "bad").State)
		}
		// The first machines of a node may take more than their class provides for, and end as a
		// whole: docs/limitations.md.
		if s := container(p, "good").State.Terminated; e.hull == kernel && (s == nil || s.ExitCode != 0) {
			e.t.Errorf("the modest container ended with %+v", container(p, "good").State)
		}
	})
}
