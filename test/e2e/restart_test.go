package e2e

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// TestDaemonRestart kills the runtime's daemon under pods: none of their containers is
// restarted, and the node does not say that it is unready.
func TestDaemonRestart(t *testing.T) {
	onHullsAlone(t, func(e *env) {
		e.pod("old", `
containers:
  - name: app
    image: AGNHOST
    args: [netexec, --http-port=8080]
    readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1, timeoutSeconds: 5}
`)
		before := e.ready("old")
		node := e.condition(corev1.NodeReady)
		for i := range 3 {
			e.ok(e.Runtime.Kill())
			e.ok(e.Runtime.Start(e.t.Context()))
			e.pod(fmt.Sprintf("new-%d", i), idle)
			e.ready(fmt.Sprintf("new-%d", i))
		}
		time.Sleep(12 * time.Second) // the kubelet looks every ten
		e.untouched(before, e.get("old"))
		e.unflapped(node)
		e.exec("old", "app", "true")
	})
}

// untouched compares a pod with what it was.
func (e *env) untouched(before, after *corev1.Pod) {
	e.t.Helper()
	b, a := container(before, "app"), container(after, "app")
	if a.RestartCount != b.RestartCount || a.ContainerID != b.ContainerID || before.Status.PodIP != after.Status.PodIP {
		e.t.Errorf("the container was %+v and is %+v", b, a)
	}
	for i, c := range before.Status.Conditions {
		if c.Type != corev1.PodReady {
			continue
		}
		for _, d := range after.Status.Conditions {
			if d.Type == c.Type && !d.LastTransitionTime.Equal(&before.Status.Conditions[i].LastTransitionTime) {
				e.t.Errorf("it was not ready meanwhile: %+v", d)
			}
		}
	}
}

// unflapped compares a condition of the node with what it was.
func (e *env) unflapped(before corev1.NodeCondition) {
	e.t.Helper()
	if now := e.condition(before.Type); !now.LastTransitionTime.Equal(&before.LastTransitionTime) {
		e.t.Errorf("the node was %+v and is %+v", before, now)
	}
}

// condition is one of the node's conditions.
func (e *env) condition(kind corev1.NodeConditionType) corev1.NodeCondition {
	e.t.Helper()
	for _, c := range e.node().Status.Conditions {
		if c.Type == kind {
			return c
		}
	}
	e.t.Fatalf("the node does not say anything of %s", kind)
	return corev1.NodeCondition{}
}

// TestKubeletRestart kills the kubelet under pods: none of their containers is restarted, and
// they do not say that they are unready. The node may: a kubelet that starts says so if it
// reports before it has listed its pods for the first time.
func TestKubeletRestart(t *testing.T) {
	onHullsAlone(t, func(e *env) {
		e.pod("old", idle)
		before := e.ready("old")
		e.ok(e.RestartKubelet())
		e.pod("new", idle)
		e.ready("new")
		time.Sleep(12 * time.Second) // the kubelet looks every ten
		e.untouched(before, e.get("old"))
	})
}
