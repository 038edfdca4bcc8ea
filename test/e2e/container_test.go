package e2e

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestInitContainers: they run one after another before the others; a sidecar runs on
// beside those, and ends after them.
func TestInitContainers(t *testing.T) {
	onHulls(t, func(e *env) {
		e.pod("p", `
restartPolicy: Never
volumes: [{name: shared, emptyDir: {}}]
initContainers:
  - name: first
    image: BUSYBOX
    command: [sh, -c, "echo first >> /shared/order"]
    volumeMounts: [{name: shared, mountPath: /shared}]
  - name: sidecar
    image: BUSYBOX
    restartPolicy: Always
    command: [sh, -c, "trap 'echo it ends; exit 0' TERM; echo sidecar >> /shared/order; touch /shared/up; while :; do sleep 0.1; done"]
    startupProbe: {exec: {command: [test, -e, /shared/up]}, periodSeconds: 1, timeoutSeconds: 20}
    volumeMounts: [{name: shared, mountPath: /shared}]
  - name: second
    image: BUSYBOX
    command: [sh, -c, "echo second >> /shared/order"]
    volumeMounts: [{name: shared, mountPath: /shared}]
containers:
  - name: app
    image: BUSYBOX
    command: [sh, -c, "echo app >> /shared/order; cat /shared/order"]
    volumeMounts: [{name: shared, mountPath: /shared}]
`)
		p := e.ended("p")
		if p.Status.Phase != corev1.PodSucceeded {
			e.t.Errorf("the pod is %s", p.Status.Phase)
		}
		if got, want := e.log("p", "app"), "first\nsidecar\nsecond\napp\n"; got != want {
			e.t.Errorf("the order is %q, want %q", got, want)
		}
		for name, want := range map[string]string{"first": "Completed", "second": "Completed", "sidecar": "Completed", "app": "Completed"} {
			s := container(p, name)
			if s.State.Terminated == nil || s.State.Terminated.Reason != want || s.RestartCount != 0 {
				e.t.Errorf("%s: %+v", name, s)
			}
		}
		if got := e.log("p", "sidecar"); got != "it ends\n" {
			e.t.Errorf("the sidecar says %q", got)
		}
		app, side := container(p, "app").State.Terminated, container(p, "sidecar").State.Terminated
		if app != nil && side != nil && side.FinishedAt.Before(&app.FinishedAt) {
			e.t.Errorf("the sidecar ended at %s, before the container at %s", side.FinishedAt, app.FinishedAt)
		}
	})
}

// TestSidecarIsRestarted: one that dies is started again, whatever the others do.
func TestSidecarIsRestarted(t *testing.T) {
	onHulls(t, func(e *env) {
		e.pod("p", `
restartPolicy: Never
volumes: [{name: v, emptyDir: {}}]
initContainers:
  - name: sidecar
    image: BUSYBOX
    restartPolicy: Always
    command: [sh, -c, "test -e /v/died || { touch /v/died; sleep 1; exit 3; }; sleep 3600"]
    volumeMounts: [{name: v, mountPath: /v}]
containers: [{name: app, image: BUSYBOX, command: [sleep, "3600"]}]
`)
		e.restarted("p", "sidecar", 1)
		if s := container(e.get("p"), "sidecar").LastTerminationState.Terminated; s == nil || s.ExitCode != 3 {
			e.t.Errorf("its last end is %+v", s)
		}
		e.ready("p")
		if s := container(e.get("p"), "app"); s.RestartCount != 0 {
			e.t.Errorf("the container beside it is %+v", s)
		}
	})
}

// TestFailingInit: a pod whose init container fails for good has failed.
func TestFailingInit(t *testing.T) {
	onHulls(t, func(e *env) {
		e.pod("p", `
restartPolicy: Never
initContainers: [{name: init, image: BUSYBOX, command: [sh, -c, exit 4]}]
containers: [{name: app, image: BUSYBOX, command: [sleep, "3600"]}]
`)
		p := e.ended("p")
		s := container(p, "init").State.Terminated
		if p.Status.Phase != corev1.PodFailed || s == nil || s.ExitCode != 4 || s.Reason != "Error" {
			e.t.Errorf("the pod is %s, its init container %+v", p.Status.Phase, container(p, "init"))
		}
		if container(p, "app").State.Waiting == nil {
			e.t.Errorf("the container is %+v", container(p, "app"))
		}
	})
}

// TestEphemeralContainer debugs a pod that has no shell, in its process namespace.
func TestEphemeralContainer(t *testing.T) {
	onHulls(t, func(e *env) {
		e.pod("p", "containers: [{name: app, image: PAUSE}]")
		p := e.ready("p")
		p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{
			EphemeralContainerCommon: corev1.EphemeralContainerCommon{
				Name: "debug", Image: e.words().Replace("BUSYBOX"), Command: []string{"sleep", "3600"},
			},
			TargetContainerName: "app",
		}}
		_, err := e.Client.CoreV1().Pods(e.ns).UpdateEphemeralContainers(e.t.Context(), "p", p, metav1.UpdateOptions{})
		e.ok(err)
		e.runs("p", "debug")
		if out := e.exec("p", "debug", "cat /proc/1/cmdline"); !strings.HasPrefix(out, "/pause") {
			e.t.Errorf("the first process that it sees is %q", out)
		}
	})
}

// restarted waits until a container was restarted so many times and runs.
func (e *env) restarted(pod, name string, times int32) {
	e.t.Helper()
	e.eventually(name+" is restarted", func() error {
		if s := container(e.get(pod), name); s.RestartCount < times || s.State.Running == nil {
			return fmt.Errorf("it is %+v", s)
		}
		return nil
	})
}

// TestBackOff: a container that ends is started again, after pauses that grow, with its exits
// told; one whose program is missing says so.
func TestBackOff(t *testing.T) {
	onHulls(t, func(e *env) {
		e.pod("p", "containers: [{name: app, image: BUSYBOX, command: [sh, -c, 'exit 6']}]")
		e.pod("once", `
volumes: [{name: v, emptyDir: {}}]
containers:
  - name: app
    image: BUSYBOX
    command: [sh, -c, "test -e /v/ran || { touch /v/ran; echo run; exit 6; }; sleep 3600"]
    volumeMounts: [{name: v, mountPath: /v}]
`)
		e.pod("missing", "containers: [{name: app, image: BUSYBOX, command: [/no/such/program]}]")
		e.eventually("it waits to be started again", func() error {
			s := container(e.get("p"), "app")
			if s.State.Waiting == nil || s.State.Waiting.Reason != "CrashLoopBackOff" || s.RestartCount < 1 {
				return fmt.Errorf("it is %+v", s)
			}
			return nil
		})
		if s := container(e.get("p"), "app").LastTerminationState.Terminated; s == nil || s.ExitCode != 6 || s.Reason != "Error" {
			e.t.Errorf("its last end is %+v", s)
		}
		e.described("p", "Error", 6)
		e.waiting("missing", "CreateContainerError")
		e.event("missing", "Failed", "/no/such/program")
		// Of those that have ended the kubelet keeps one: of the other pod it may tell of one
		// that is gone.
		e.restarted("once", "app", 1)
		if out := e.kubectl("logs", "once", "--previous"); out != "run\n" {
			e.t.Errorf("the log before is %q", out)
		}
		e.pausesGrow("p", "app")
	})
}

// pausesGrow waits until a container that ends at once was started after ten seconds, and then
// after twenty: the kubelet's pauses, which it reckons from the ends that it is told.
func (e *env) pausesGrow(pod, name string) {
	e.t.Helper()
	var starts []time.Time
	e.eventually("it is started after ten seconds and then after twenty", func() error {
		last := container(e.get(pod), name).LastTerminationState.Terminated
		if last == nil || len(starts) > 0 && !last.StartedAt.After(starts[len(starts)-1]) {
			return fmt.Errorf("it was started at %v", starts)
		}
		starts = append(starts, last.StartedAt.Time)
		n := len(starts)
		if n < 3 || starts[n-1].Sub(starts[n-2]) < 19*time.Second || starts[n-2].Sub(starts[n-3]) < 9*time.Second {
			return fmt.Errorf("it was started at %v", starts)
		}
		return nil
	})
}

// described fails unless kubectl describe tells of an end with this reason and code.
func (e *env) described(pod, reason string, code int) {
	e.t.Helper()
	out := e.kubectl("describe", "pod", pod)
	if !regexp.MustCompile(fmt.Sprintf(`Reason: +%s\n(.*\n)?(.*\n)? +Exit Code: +%d\n`, reason, code)).MatchString(out) {
		e.t.Errorf("no end with %s and %d is described:\n%s", reason, code, out)
	}
}

// TestHooks: postStart is over before a container counts as started, preStop comes before
// the signal.
func TestHooks(t *testing.T) {
	onHulls(t, func(e *env) {
		e.pod("p", `
terminationGracePeriodSeconds: 30
volumes: [{name: shared, hostPath: {path: /var/lib/e2e-NAMESPACE, type: DirectoryOrCreate}}]
containers:
  - name: app
    image: BUSYBOX
    command: [sh, -c, "trap 'echo signal >> /shared/order; exit 0' TERM; while :; do sleep 0.1; done"]
    lifecycle:
      postStart: {exec: {command: [sh, -c, "sleep 1; echo started >> /shared/order"]}}
      preStop: {exec: {command: [sh, -c, "sleep 1; echo stopping >> /shared/order"]}}
    volumeMounts: [{name: shared, mountPath: /shared}]
`)
		e.ready("p")
		if got := e.exec("p", "app", "cat /shared/order"); got != "started\n" {
			e.t.Errorf("after the start there is %q", got)
		}
		began := time.Now()
		e.ok(e.Client.CoreV1().Pods(e.ns).Delete(e.t.Context(), "p", metav1.DeleteOptions{}))
		e.gone("p")
		if took := time.Since(began); took > 25*time.Second {
			e.t.Errorf("it took %s to go", took)
		}
		e.pod("reader", `
volumes: [{name: shared, hostPath: {path: /var/lib/e2e-NAMESPACE}}]
containers: [{name: app, image: BUSYBOX, command: [sleep, "3600"], volumeMounts: [{name: shared, mountPath: /shared}]}]
`)
		e.ready("reader")
		if got := e.exec("reader", "app", "cat /shared/order"); got != "started\nstopping\nsignal\n" {
			e.t.Errorf("in all there is %q", got)
		}
	})
}

// TestHTTPHooks: hooks that are requests arrive, the first after the start and the last before
// the container is gone.
func TestHTTPHooks(t *testing.T) {
	onHulls(t, func(e *env) {
		e.pod("server", "containers: [{name: app, image: AGNHOST, args: [netexec, --http-port=8080], readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1, timeoutSeconds: 20}}]")
		server := e.ready("server").Status.PodIP
		e.pod("p", strings.ReplaceAll(`
terminationGracePeriodSeconds: 30
containers:
  - name: app
    image: BUSYBOX
    command: [sh, -c, "trap 'exit 0' TERM; while :; do sleep 0.1; done"]
    lifecycle:
      postStart: {httpGet: {host: SERVER, port: 8080, path: '/echo?msg=started'}}
      preStop: {httpGet: {host: SERVER, port: 8080, path: '/echo?msg=stopping'}}
`, "SERVER", server))
		e.ready("p")
		requests := regexp.MustCompile(`/echo\?msg=(\w+)`)
		said := func() (said []string) {
			for _, m := range requests.FindAllStringSubmatch(e.log("server", "app"), -1) {
				said = append(said, m[1])
			}
			return said
		}
		if got := said(); !slices.Equal(got, []string{"started"}) {
			e.t.Errorf("after the start the server was asked for %q", got)
		}
		e.ok(e.Client.CoreV1().Pods(e.ns).Delete(e.t.Context(), "p", metav1.DeleteOptions{}))
		e.gone("p")
		if got := said(); !slices.Equal(got, []string{"started", "stopping"}) {
			e.t.Errorf("in all the server was asked for %q", got)
		}
	})
}

// TestStopSignal: the pod's own signal ends its container, or that of its image; and what does
// not listen is killed when its time is over.
func TestStopSignal(t *testing.T) {
	onHulls(t, func(e *env) {
		image := "example.com/signal/" + e.ns + ":1"
		e.publish(image, v1.Config{StopSignal: "SIGUSR2"})
		const spec = `
os: {name: linux}
restartPolicy: Never
terminationGracePeriodSeconds: GRACE
containers:
  - name: app
    image: IMAGE
    command: [sh, -c, "trap 'echo usr1; exit 21' USR1; trap 'echo usr2; exit 22' USR2; trap '' TERM; while :; do sleep 0.1; done"]
    lifecycle: {LIFECYCLE}
    livenessProbe: {exec: {command: ["false"]}, periodSeconds: 1, timeoutSeconds: 20, failureThreshold: 1, initialDelaySeconds: 1}
`
		for _, c := range []struct {
			name, image, lifecycle, grace, log string
			code                               int32
		}{
			{"own", "BUSYBOX", "stopSignal: SIGUSR1", "60", "usr1\n", 21},
			{"image", image, "", "60", "usr2\n", 22},
			{"deaf", "BUSYBOX", "", "2", "", 137},
		} {
			e.pod(c.name, strings.NewReplacer("IMAGE", c.image, "LIFECYCLE", c.lifecycle, "GRACE", c.grace).Replace(spec))
			p := e.ended(c.name)
			if s := container(p, "app").State.Terminated; s == nil || s.ExitCode != c.code {
				e.t.Errorf("%s ended with %+v", c.name, container(p, "app").State)
			}
			if out := e.log(c.name, "app"); out != c.log {
				e.t.Errorf("%s says %q", c.name, out)
			}
		}
	})
}
