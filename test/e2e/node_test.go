package e2e

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"
)

// TestPodCgroup: the pod's cgroup on the node has the limits of its containers, and the
// overhead of its class on top; a machine is as large as its limits ask for.
func TestPodCgroup(t *testing.T) {
	onHulls(t, func(e *env) {
		p := e.pod("p", `
containers:
  - {name: one, image: BUSYBOX, command: [sleep, '3600'], resources: {limits: {cpu: 300m, memory: 1Gi}}}
  - {name: two, image: BUSYBOX, command: [sleep, '3600'], resources: {limits: {cpu: 200m, memory: 512Mi}}}
`)
		e.ready("p")
		memory, cpu := int64(1536*mebi), int64(500)
		if e.hull == virtual {
			o := e.get("p").Spec.Overhead
			if o.Memory().IsZero() || o.Cpu().IsZero() {
				e.t.Errorf("the pod's overhead is %v", o)
			}
			memory, cpu = memory+o.Memory().Value(), cpu+o.Cpu().MilliValue()
			if total := e.number("p", "one", "awk '/^MemTotal/ {print $2 * 1024}' /proc/meminfo"); total < 1536*mebi {
				e.t.Errorf("the machine has %.0f bytes of memory, less than its containers' limits", total)
			} else if total > 3*1536*mebi {
				e.t.Errorf("the machine has %.0f bytes of memory, far more than its containers' limits", total)
			}
		}
		if got := podCgroup(e, p, "memory/memory.limit_in_bytes", "memory.max"); got != fmt.Sprint(memory) {
			e.t.Errorf("the pod's memory limit is %s, want %d", got, memory)
		}
		quota := strings.Fields(podCgroup(e, p, "cpu/cpu.cfs_quota_us", "cpu.max"))[0]
		if quota != fmt.Sprint(cpu*100) {
			e.t.Errorf("the pod's processor limit is %s us in 100 ms, want %d", quota, cpu*100)
		}
	})
}

// podCgroup reads a file of the cgroup that the kubelet made for a guaranteed pod: v1's or v2's.
func podCgroup(e *env, p *corev1.Pod, v1, v2 string) string {
	e.t.Helper()
	controller, file := filepath.Split(v1)
	dir := podCgroupDir(e, p, controller)
	data, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		data, err = os.ReadFile(filepath.Join(dir, v2))
	}
	e.ok(err)
	return strings.TrimSpace(string(data))
}

// podCgroupDir is that cgroup's directory, in version 1 in the hierarchy of a controller.
func podCgroupDir(e *env, p *corev1.Pod, controller string) string {
	e.t.Helper()
	for _, root := range []string{filepath.Join("/sys/fs/cgroup", controller), "/sys/fs/cgroup"} {
		if dir := filepath.Join(root, "kubepods/pod"+string(p.UID)); exists(dir) {
			return dir
		}
	}
	e.t.Fatal("the pod has no cgroup")
	return ""
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// TestEvents: the kubelet learns of ends by events of the runtime, and looks at the pod because
// of them, not at its next poll only. It is a new kubelet: one that has seen restarts of the
// runtime may have given the stream up.
func TestEvents(t *testing.T) {
	onHullsAlone(t, func(e *env) {
		e.ok(e.RestartKubelet())
		const events, looks = "kubelet_evented_pleg_connection_latency_seconds_count", "kubelet_pleg_pod_relist_duration_seconds_count"
		heard, looked := e.kubeletCount(events), e.kubeletCount(looks)
		const ends = 6
		e.pod("p", "restartPolicy: Never\ncontainers: [{name: c0, image: BUSYBOX, command: [sleep, '0']}]", func(p *corev1.Pod) {
			first := p.Spec.Containers[0]
			for i := 1; i < ends; i++ {
				c := *first.DeepCopy()
				c.Name, c.Command = fmt.Sprintf("c%d", i), []string{"sleep", fmt.Sprint(8 + 2*i)}
				p.Spec.Containers = append(p.Spec.Containers, c)
			}
		})
		e.ended("p")
		// The sandbox and every container were created, started and stopped.
		if n := e.kubeletCount(events) - heard; n < 3*ends {
			e.t.Errorf("it has heard %v events of a pod's life", n)
		}
		// When it has started containers it looks by itself: once.
		if n := e.kubeletCount(looks) - looked; n < ends {
			e.t.Errorf("it has looked at a pod %v times beside its polls, while %d containers ended", n, ends)
		}
	})
}

// kubeletCount is a counter of the kubelet's own, which it has when it has counted once.
func (e *env) kubeletCount(name string) float64 {
	e.t.Helper()
	m := regexp.MustCompile(`(?m)^` + name + ` (\S+)`).FindStringSubmatch(e.kubelet("metrics"))
	if m == nil {
		e.t.Fatalf("the kubelet has no %s", name)
	}
	return parse(e, m[1])
}

// TestStatsWithoutGate holds what docs/limitations.md says is lost when the kubelet's gate
// PodAndContainerStatsFromCRI is off, as it is by default.
func TestStatsWithoutGate(t *testing.T) {
	onHullsAlone(t, func(e *env) {
		e.pod("p", idle)
		e.ready("p")
		e.eventually("metrics tell of the container", func() error {
			if len(e.metrics("cadvisor", "p", "app")) == 0 {
				return fmt.Errorf("there are none")
			}
			return nil
		})
		e.configure("featureGates: {PodAndContainerStatsFromCRI: false}")
		e.eventually("the kubelet tells of the pod", func() error {
			if c := e.told("p").container("app"); c.Memory.WorkingSetBytes == 0 || c.CPU.UsageCoreNanoSeconds == 0 {
				return fmt.Errorf("its summary has no memory or no processor time of the container: %+v", c)
			}
			return nil
		})
		// The kubelet looks after its own cgroups every ten seconds, and caches.
		time.Sleep(25 * time.Second)
		if got := e.told("p").Network; got.RxBytes+got.TxBytes > 0 {
			e.t.Errorf("the summary tells of the pod's network without the gate: %+v; docs/limitations.md says that it does not", got)
		}
		if got := e.metrics("cadvisor", "p", "app"); len(got) > 0 {
			e.t.Errorf("/metrics/cadvisor tells of the container without the gate: %v; docs/limitations.md says that it does not", got)
		}
	})
}

// TestTerminal: exec with a terminal has the client's size, and follows it.
func TestTerminal(t *testing.T) {
	onHulls(t, func(e *env) {
		e.pod("p", idle)
		e.ready("p")
		req := e.Client.CoreV1().RESTClient().Post().Namespace(e.ns).Resource("pods").Name("p").SubResource("exec").
			VersionedParams(&corev1.PodExecOptions{Container: "app", Command: []string{"sh"}, Stdin: true, Stdout: true, TTY: true}, scheme.ParameterCodec)
		x, err := remotecommand.NewWebSocketExecutor(e.Config, "GET", req.URL().String())
		e.ok(err)
		sizes := make(sizes, 1)
		sizes <- remotecommand.TerminalSize{Width: 123, Height: 45}
		in, typed := io.Pipe()
		shown, out := io.Pipe()
		ended := make(chan error, 1)
		ctx, cancel := context.WithTimeout(e.t.Context(), patience)
		defer cancel()
		go func() {
			err := x.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: in, Stdout: out, Tty: true, TerminalSizeQueue: sizes})
			out.CloseWithError(io.EOF)
			ended <- err
		}()
		screen := &screen{r: shown}
		fmt.Fprint(typed, "until stty size | grep 45; do sleep 0.1; done\n")
		screen.waitFor(e, "45 123")
		sizes <- remotecommand.TerminalSize{Width: 77, Height: 33}
		fmt.Fprint(typed, "until stty size | grep 33; do sleep 0.1; done; exit 5\n")
		screen.waitFor(e, "33 77")
		go io.Copy(io.Discard, shown)
		if err := <-ended; err == nil || !strings.Contains(err.Error(), "exit code 5") {
			e.t.Errorf("it ended with %v", err)
		}
	})
}

type sizes chan remotecommand.TerminalSize

func (s sizes) Next() *remotecommand.TerminalSize {
	size, more := <-s
	if !more {
		return nil
	}
	return &size
}

// screen is what a terminal has shown.
type screen struct {
	r    io.Reader
	text string
}

func (s *screen) waitFor(e *env, text string) {
	e.t.Helper()
	for b := make([]byte, 4096); !strings.Contains(s.text, text); {
		n, err := s.r.Read(b)
		if s.text += string(b[:n]); err != nil {
			e.t.Fatalf("the terminal shows %q, not %q: %v", s.text, text, err)
		}
	}
}
