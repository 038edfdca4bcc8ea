package e2e

import (
	"fmt"
	"testing"
)

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
		e.exec("grpc", "app", "wget -qO- http://localhost:8080/make-not-serving")
		e.restarted("grpc", "app", 1)
	})
}

// TestFailingProbes: a container whose port does not answer is not ready; one whose server
// says that it is ill, or whose port is closed, is restarted.
func TestFailingProbes(t *testing.T) {
	onHulls(t, func(e *env) {
		// A pod for each: the kubelet tells the API of 25 events of a pod, and then of one in five minutes.
		e.pod("http", `
containers:
  - name: app
    image: AGNHOST
    args: [liveness] # is well for ten seconds
    startupProbe: {httpGet: {path: /started, port: 8080}, periodSeconds: 3, failureThreshold: 60, timeoutSeconds: 20}
    livenessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1, timeoutSeconds: 20, failureThreshold: 1}
`)
		e.pod("tcp", `
containers:
  - name: app
    image: BUSYBOX
    command: [sh, -c, "trap 'exit 9' TERM; while :; do sleep 0.1; done"]
    livenessProbe: {tcpSocket: {port: 9}, periodSeconds: 1, timeoutSeconds: 20, failureThreshold: 1, initialDelaySeconds: 2}
`)
		e.pod("closed", `
containers:
  - name: app
    image: BUSYBOX
    command: [sleep, "3600"]
    readinessProbe: {tcpSocket: {port: 9}, periodSeconds: 1, timeoutSeconds: 20}
`)
		for _, name := range []string{"http", "tcp"} {
			e.restarted(name, "app", 1)
		}
		e.event("http", "Unhealthy", "HTTP probe failed with statuscode: 500")
		e.event("tcp", "Unhealthy", "Liveness probe failed: dial tcp")
		e.event("closed", "Unhealthy", "Readiness probe failed: dial tcp")
		if s := container(e.get("closed"), "app"); s.Ready || s.State.Running == nil || s.RestartCount != 0 {
			e.t.Errorf("what has its port closed is %+v", s)
		}
	})
}

// TestStartupProbe: a container counts as started when its probe says so, and is neither ready
// nor asked for its health before.
func TestStartupProbe(t *testing.T) {
	onHulls(t, func(e *env) {
		e.pod("p", `
containers:
  - name: app
    image: AGNHOST
    command: [sleep, "3600"]
    startupProbe: {tcpSocket: {port: 9}, periodSeconds: 1, timeoutSeconds: 20, failureThreshold: 600}
    livenessProbe: {exec: {command: ["false"]}, periodSeconds: 1, timeoutSeconds: 20, failureThreshold: 1}
`)
		e.runs("p", "app")
		e.event("p", "Unhealthy", "Startup probe failed")
		if s := container(e.get("p"), "app"); s.Started == nil || *s.Started || s.Ready || s.RestartCount != 0 {
			e.t.Errorf("before its start is over it is %+v", s)
		}
		e.exec("p", "app", "/agnhost netexec --http-port=9 >/dev/null 2>&1 &")
		e.eventually("it has started, and its health counts", func() error {
			if s := container(e.get("p"), "app"); s.RestartCount == 0 {
				return fmt.Errorf("it is %+v", s)
			}
			return nil
		})
	})
}
