package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

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
    command: [sh, -c, "trap 'echo sidecar ends >> /shared/order; exit 0' TERM; echo sidecar >> /shared/order; touch /shared/up; while :; do sleep 0.1; done"]
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
		app, side := container(p, "app").State.Terminated, container(p, "sidecar").State.Terminated
		if app != nil && side != nil && side.FinishedAt.Before(&app.FinishedAt) {
			e.t.Errorf("the sidecar ended at %s, before the container at %s", side.FinishedAt, app.FinishedAt)
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

// TestProbes: a container is not started before its startup probe, not ready without its
// readiness probe, and restarted by its liveness probe; by every kind of question.
func TestProbes(t *testing.T) {
	onHulls(t, func(e *env) {
		e.pod("http", `
containers:
  - name: app
    image: AGNHOST
    args: [netexec, --http-port=8080]
    startupProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1, failureThreshold: 60, timeoutSeconds: 20}
    readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1, timeoutSeconds: 20}
    livenessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1, timeoutSeconds: 20}
`)
		e.pod("grpc", `
containers:
  - name: app
    image: AGNHOST
    args: [grpc-health-checking]
    startupProbe: {grpc: {port: 5000}, periodSeconds: 1, failureThreshold: 60, timeoutSeconds: 20}
    readinessProbe: {grpc: {port: 5000}, periodSeconds: 1, timeoutSeconds: 20}
    livenessProbe: {grpc: {port: 5000}, periodSeconds: 1, timeoutSeconds: 20, failureThreshold: 1}
`)
		e.pod("exec", `
volumes: [{name: shared, emptyDir: {}}]
containers:
  - name: app
    image: BUSYBOX
    command: [sh, -c, "touch /shared/ready; trap 'exit 9' TERM; while :; do sleep 0.1; done"]
    readinessProbe: {exec: {command: [test, -e, /shared/ready]}, periodSeconds: 1, timeoutSeconds: 20}
    livenessProbe: {exec: {command: [sh, -c, "test ! -e /shared/sick || { rm /shared/sick; exit 1; }"]}, periodSeconds: 1, timeoutSeconds: 20, failureThreshold: 1}
    volumeMounts: [{name: shared, mountPath: /shared}]
`)
		for _, name := range []string{"http", "grpc", "exec"} {
			e.ready(name)
		}
		e.exec("exec", "app", "rm /shared/ready")
		e.eventually("it is not ready", func() error {
			if isReady(e.get("exec")) == nil {
				return fmt.Errorf("it is")
			}
			return nil
		})
		e.exec("exec", "app", "touch /shared/ready /shared/sick")
		e.restarted("exec", "app", 1)
		if s := container(e.get("exec"), "app").LastTerminationState.Terminated; s == nil || s.ExitCode != 9 {
			e.t.Errorf("its last end is %+v", s)
		}
		e.ready("exec")
		for _, name := range []string{"http", "grpc"} {
			if s := container(e.get(name), "app"); s.RestartCount != 0 {
				e.t.Errorf("pod %s was restarted: %+v", name, s)
			}
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

// TestBackOff: a container that ends is started again, after growing pauses, with its
// exits told.
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
		// Of those that have ended the kubelet keeps one: of the other pod it may tell of one
		// that is gone.
		e.restarted("once", "app", 1)
		if out := e.kubectl("logs", "once", "--previous"); out != "run\n" {
			e.t.Errorf("the log before is %q", out)
		}
	})
}

// TestHooks: postStart is over before a container counts as started, preStop comes before
// the signal, and the signal is the image's or the pod's own.
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

// TestStopSignal: the pod's own signal ends its container.
func TestStopSignal(t *testing.T) {
	onHulls(t, func(e *env) {
		e.pod("p", `
os: {name: linux}
restartPolicy: Never
terminationGracePeriodSeconds: 60
containers:
  - name: app
    image: BUSYBOX
    command: [sh, -c, "trap 'echo usr1; exit 21' USR1; while :; do sleep 0.1; done"]
    lifecycle: {stopSignal: SIGUSR1}
    livenessProbe: {exec: {command: ["false"]}, periodSeconds: 1, timeoutSeconds: 20, failureThreshold: 1, initialDelaySeconds: 1}
`)
		p := e.ended("p")
		if s := container(p, "app").State.Terminated; s == nil || s.ExitCode != 21 {
			e.t.Errorf("it ended with %+v", container(p, "app").State)
		}
		if out := e.log("p", "app"); out != "usr1\n" {
			e.t.Errorf("it says %q", out)
		}
	})
}
