package e2e

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestDeployment rolls a new version out under a service that is asked all the time, by
// its address, by its name and by the node's port.
func TestDeployment(t *testing.T) {
	onHulls(t, func(e *env) {
		e.deploy(`
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  strategy: {rollingUpdate: {maxUnavailable: 0, maxSurge: 1}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 10
      containers:
        - name: web
          image: AGNHOST
          args: [netexec, --http-port=8080]
          env: [{name: VERSION, value: one}]
          readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1, timeoutSeconds: 20}
          lifecycle: {preStop: {sleep: {seconds: 5}}}
`)
		s := e.service(`
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
`)
		e.pod("client", idle)
		e.rolledOut("web", 2)
		e.ready("client")
		for _, host := range []string{s.Spec.ClusterIP, "web", "web." + e.ns + ".svc.cluster.local", fmt.Sprintf("%s:%d", nodeAddress, s.Spec.Ports[0].NodePort)} {
			e.eventually(host+" answers", func() error {
				out, err := e.try("client", "app", "wget", "-qO-", "-T", "5", "http://"+host+"/hostname")
				if err == nil && !strings.HasPrefix(out, "web-") {
					err = fmt.Errorf("it says %q", out)
				}
				return err
			})
		}
		// From the node too, which has no pod's network.
		if status, _, err := askNode(fmt.Sprint(s.Spec.Ports[0].NodePort)); err != nil || status != http.StatusOK {
			e.t.Errorf("the node's port answers the node %d, %v", status, err)
		}
		e.kubectl("set", "env", "deployment/web", "VERSION=two")
		// Nobody is turned away meanwhile.
		for began, done := time.Now(), false; !done; {
			out, err := e.try("client", "app", "wget", "-qO-", "-T", "10", "http://web/hostname")
			if err != nil {
				e.t.Fatalf("during the roll-out: %v: %s", err, out)
			}
			if err = e.rolled("web", 2); err != nil && time.Since(began) > 2*patience {
				e.t.Fatalf("the roll-out does not end: %v", err)
			}
			done = err == nil
		}
		list, err := e.Client.CoreV1().Pods(e.ns).List(e.t.Context(), metav1.ListOptions{LabelSelector: "app=web"})
		e.ok(err)
		for _, p := range list.Items {
			if p.DeletionTimestamp != nil {
				continue
			}
			if got := e.exec(p.Name, "web", "echo $VERSION"); got != "two\n" {
				e.t.Errorf("pod %s is of version %q", p.Name, got)
			}
		}
	})
}

// askNode asks a port of the node's for its host name, from the node.
func askNode(port string) (status int, name string, err error) {
	c := http.Client{Timeout: 10 * time.Second}
	defer c.CloseIdleConnections()
	resp, err := c.Get("http://" + nodeAddress + ":" + port + "/hostname")
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

// nodeAddress is the node's.
const nodeAddress = "10.177.0.1"

// rolledOut waits until a deployment has so many pods of its last version and no others.
func (e *env) rolledOut(name string, replicas int32) {
	e.t.Helper()
	e.eventually("deployment "+name+" is rolled out", func() error { return e.rolled(name, replicas) })
}

func (e *env) rolled(name string, replicas int32) error {
	d, err := e.Client.AppsV1().Deployments(e.ns).Get(e.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	s := d.Status
	if s.ObservedGeneration < d.Generation || s.UpdatedReplicas != replicas || s.Replicas != replicas || s.AvailableReplicas != replicas {
		return fmt.Errorf("its status is %+v", s)
	}
	return nil
}
