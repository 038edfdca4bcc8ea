package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cricket-cri/cricket/test/cluster"
)

// TestReboot: everything is killed, and what the last boot has left is still there when
// the node starts again. Pods run again, with what they have on disk; what ended with the
// boot is told as having ended.
func TestReboot(t *testing.T) {
	onHullsAlone(t, func(e *env) {
		e.deploy(`
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
        - name: web
          image: AGNHOST
          args: [netexec, --http-port=8080]
          readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1, timeoutSeconds: 5}
`)
		e.service(`{metadata: {name: web}, spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}}`)
		e.pod("kept", `
volumes: [{name: v, emptyDir: {}}]
containers:
  - name: app
    image: BUSYBOX
    command: [sh, -c, "echo boot >> /v/log; cat /v/log; sleep 3600"]
    volumeMounts: [{name: v, mountPath: /v}]
`)
		e.pod("once", "restartPolicy: Never\ncontainers: [{name: app, image: BUSYBOX, command: [sleep, '3600']}]")
		e.rolledOut("web", 2)
		before := e.ready("kept")
		e.ready("once")
		boot := e.node().Status.NodeInfo.BootID

		e.ok(e.Reboot(e.t.Context()))
		e.eventually("the node is ready with another boot", func() error {
			if e.node().Status.NodeInfo.BootID == boot {
				return errors.New("it has the boot of before")
			}
			if c := e.condition(corev1.NodeReady); c.Status != corev1.ConditionTrue {
				return fmt.Errorf("it is not ready: %s", c.Message)
			}
			return nil
		})
		e.restarted("kept", "app", 1)
		after := e.ready("kept")
		app := container(after, "app")
		if app.RestartCount != 1 || app.ContainerID == container(before, "app").ContainerID {
			e.t.Errorf("the container was %+v and is %+v", container(before, "app"), app)
		}
		if s := app.LastTerminationState.Terminated; s == nil || s.ExitCode == 0 {
			e.t.Errorf("its end is told as %+v", s)
		}
		// An emptyDir of a virtual machine ends with the machine: docs/limitations.md.
		want := map[string]string{kernel: "boot\nboot\n", virtual: "boot\n"}[e.hull]
		e.eventually("it has run", func() error {
			if got := e.log("kept", "app"); got != want {
				return fmt.Errorf("it says %q, want %q", got, want)
			}
			return nil
		})
		if got := e.kubectl("logs", "kept", "--previous"); got != "boot\n" {
			e.t.Errorf("before the boot it said %q", got)
		}
		if s := container(e.ended("once"), "app").State.Terminated; s == nil || s.ExitCode == 0 {
			e.t.Errorf("what is not restarted has ended with %+v", s)
		}
		e.rolledOut("web", 2)
		e.eventually("the service answers", func() error {
			out, err := e.try("kept", "app", "wget", "-qO-", "-T", "5", "http://web/hostname")
			if err == nil && !strings.HasPrefix(out, "web-") {
				err = fmt.Errorf("it says %q", out)
			}
			return err
		})
	})
}

func (e *env) node() *corev1.Node {
	e.t.Helper()
	n, err := e.Client.CoreV1().Nodes().Get(e.t.Context(), cluster.NodeName, metav1.GetOptions{})
	e.ok(err)
	return n
}
