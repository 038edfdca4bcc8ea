package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"
	"sigs.k8s.io/yaml"

	"github.com/cricket-cri/cricket/hack/tools"
	"github.com/cricket-cri/cricket/test/cluster"
	"github.com/cricket-cri/cricket/test/harness"
	"github.com/cricket-cri/cricket/test/images"
)

// The hulls of pods.
const (
	kernel  = "kernel"
	virtual = "vm"
)

// patience is how long anything that a cluster does may take. It is for machines that
// emulate virtual ones while they do other things.
const patience = 2 * time.Minute

// env is a test's namespace on the cluster, in one hull. Its methods fail the test and are
// for the test's goroutine.
type env struct {
	*cluster.Cluster
	t    *testing.T
	ns   string
	hull string
}

// onHulls runs a test in every hull that is chosen and that the runtime has, beside other
// tests. It may not start the node's programs again, nor count what is the node's.
func onHulls(t *testing.T, test func(*env)) {
	t.Parallel()
	eachHull(t, func(e *env) {
		e.t.Parallel()
		test(e)
	})
}

// onHullsAlone runs a test that others would disturb, or that would disturb others.
func onHullsAlone(t *testing.T, test func(*env)) { eachHull(t, test) }

func eachHull(t *testing.T, test func(*env)) {
	for _, hull := range []string{kernel, virtual} {
		if only := os.Getenv(hullEnv); only != "" && only != hull {
			continue
		}
		if hull == virtual && chosenRuntime() != cluster.Cricket {
			continue
		}
		t.Run(hull, func(t *testing.T) { test(newEnv(t, hull)) })
	}
}

// part runs a part of a test on what is there, so that a failure does not hide the others'.
func (e *env) part(name string, test func(*env)) {
	e.t.Run(name, func(t *testing.T) {
		of := *e
		of.t = t
		test(&of)
	})
}

// oneHull is where a test runs of what does not depend on the hull.
func oneHull() string {
	if only := os.Getenv(hullEnv); only != "" {
		return only
	}
	return kernel
}

var unsuitable = regexp.MustCompile(`[^a-z0-9]+`)

func newEnv(t *testing.T, hull string) *env {
	// The namespace of a run before may still be going.
	name := fmt.Sprintf("%s-%04x", unsuitable.ReplaceAllString(strings.ToLower(strings.TrimPrefix(t.Name(), "Test")), "-"), rand.N(1<<16))
	e := &env{Cluster: shared, t: t, ns: name, hull: hull}
	_, err := e.Client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	e.ok(err)
	t.Cleanup(e.end)
	e.eventually("the service account is made", func() error {
		_, err := e.Client.CoreV1().ServiceAccounts(name).Get(t.Context(), "default", metav1.GetOptions{})
		return err
	})
	return e
}

// end removes the namespace and waits until its pods have gone.
func (e *env) end() {
	if e.t.Failed() {
		e.describe()
	}
	ctx := context.WithoutCancel(e.t.Context())
	e.ok(e.Client.CoreV1().Namespaces().Delete(ctx, e.ns, metav1.DeleteOptions{}))
	e.eventually("the namespace's pods go", func() error {
		list, err := e.Client.CoreV1().Pods(e.ns).List(ctx, metav1.ListOptions{})
		if err == nil && len(list.Items) > 0 {
			err = fmt.Errorf("%d are left, among them %s", len(list.Items), list.Items[0].Name)
		}
		return err
	})
}

// describe prints what a human would look at.
func (e *env) describe() {
	for _, args := range [][]string{{"get", "all", "-o", "wide"}, {"describe", "pods"}, {"get", "events", "--sort-by=.lastTimestamp"}} {
		out, _ := e.Kubectl(context.WithoutCancel(e.t.Context()), append(args, "-n", e.ns)...).CombinedOutput()
		e.t.Logf("kubectl %s:\n%.8000s", strings.Join(args, " "), out)
	}
}

func (e *env) ok(err error) {
	e.t.Helper()
	if err != nil {
		e.t.Fatal(err)
	}
}

// eventually waits until check returns nil.
func (e *env) eventually(what string, check func() error) {
	e.t.Helper()
	e.within(patience, what, check)
}

func (e *env) within(limit time.Duration, what string, check func() error) {
	e.t.Helper()
	err := harness.Until(context.WithoutCancel(e.t.Context()), limit, func(context.Context) error { return check() })
	if err != nil {
		e.t.Fatalf("%s: %v", what, err)
	}
}

// words are what manifests of this suite name by one word.
func (e *env) words() *strings.Replacer {
	p := images.Programs{AgnhostVersion: tools.AgnhostVersion}
	return strings.NewReplacer("BUSYBOX", images.Busybox, "NGINX", images.Nginx, "AGNHOST", p.AgnhostImage(), "PAUSE", images.Pause, "NAMESPACE", e.ns)
}

// decode reads a manifest, strictly.
func (e *env) decode(text string, object any) {
	e.t.Helper()
	if err := yaml.UnmarshalStrict([]byte(e.words().Replace(text)), object); err != nil {
		e.t.Fatalf("%v in\n%s", err, text)
	}
}

// in puts a pod's specification into the test's hull.
func (e *env) in(s *corev1.PodSpec) {
	if e.hull == virtual {
		class := virtual
		s.RuntimeClassName = &class
	}
	if s.TerminationGracePeriodSeconds == nil {
		grace := int64(1)
		s.TerminationGracePeriodSeconds = &grace
	}
}

// idle is the specification of a pod that does nothing.
const idle = "containers: [{name: app, image: BUSYBOX, command: [sleep, '3600']}]"

// pod creates a pod by its specification.
func (e *env) pod(name, spec string, change ...func(*corev1.Pod)) *corev1.Pod {
	e.t.Helper()
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}}}
	e.decode(spec, &p.Spec)
	e.in(&p.Spec)
	for _, f := range change {
		f(p)
	}
	p, err := e.Client.CoreV1().Pods(e.ns).Create(e.t.Context(), p, metav1.CreateOptions{})
	e.ok(err)
	return p
}

// deploy creates a deployment by its manifest.
func (e *env) deploy(manifest string) {
	e.t.Helper()
	d := &appsv1.Deployment{}
	e.decode(manifest, d)
	e.in(&d.Spec.Template.Spec)
	_, err := e.Client.AppsV1().Deployments(e.ns).Create(e.t.Context(), d, metav1.CreateOptions{})
	e.ok(err)
}

// service creates a service by its manifest.
func (e *env) service(manifest string) *corev1.Service {
	e.t.Helper()
	s := &corev1.Service{}
	e.decode(manifest, s)
	s, err := e.Client.CoreV1().Services(e.ns).Create(e.t.Context(), s, metav1.CreateOptions{})
	e.ok(err)
	return s
}

// get is a pod as it is now.
func (e *env) get(name string) *corev1.Pod {
	e.t.Helper()
	p, err := e.Client.CoreV1().Pods(e.ns).Get(e.t.Context(), name, metav1.GetOptions{})
	e.ok(err)
	return p
}

// ready waits until a pod is ready.
func (e *env) ready(name string) *corev1.Pod {
	e.t.Helper()
	e.eventually("pod "+name+" is ready", func() error {
		p := e.get(name)
		if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
			e.t.Fatalf("pod %s is %s: %+v", name, p.Status.Phase, p.Status.ContainerStatuses)
		}
		return isReady(p)
	})
	return e.get(name)
}

func isReady(p *corev1.Pod) error {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			return nil
		}
	}
	return fmt.Errorf("it is %s: %+v", p.Status.Phase, p.Status.ContainerStatuses)
}

// ended waits until a pod has come to its end.
func (e *env) ended(name string) *corev1.Pod {
	e.t.Helper()
	e.eventually("pod "+name+" ends", func() error {
		if p := e.get(name); p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed {
			return fmt.Errorf("it is %s", p.Status.Phase)
		}
		return nil
	})
	return e.get(name)
}

// gone waits until a pod is no more.
func (e *env) gone(name string) {
	e.t.Helper()
	e.eventually("pod "+name+" goes", func() error {
		list, err := e.Client.CoreV1().Pods(e.ns).List(e.t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=" + name})
		if err == nil && len(list.Items) > 0 {
			err = errors.New("it is there")
		}
		return err
	})
}

// container is a container's status, by its name, of whatever kind it is.
func container(p *corev1.Pod, name string) corev1.ContainerStatus {
	for _, list := range [][]corev1.ContainerStatus{p.Status.ContainerStatuses, p.Status.InitContainerStatuses, p.Status.EphemeralContainerStatuses} {
		for _, s := range list {
			if s.Name == name {
				return s
			}
		}
	}
	return corev1.ContainerStatus{}
}

// runs waits until a container runs.
func (e *env) runs(pod, name string) {
	e.t.Helper()
	e.eventually("container "+name+" runs", func() error {
		if s := container(e.get(pod), name); s.State.Running == nil {
			return fmt.Errorf("it is %+v", s.State)
		}
		return nil
	})
}

// try runs a command in a container and returns its output, what is an error's last.
func (e *env) try(pod, container string, command ...string) (string, error) {
	req := e.Client.CoreV1().RESTClient().Post().Namespace(e.ns).Resource("pods").Name(pod).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Container: container, Command: command, Stdout: true, Stderr: true}, scheme.ParameterCodec)
	x, err := remotecommand.NewWebSocketExecutor(e.Config, "GET", req.URL().String())
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(e.t.Context(), patience)
	defer cancel()
	var stdout, stderr bytes.Buffer // each has a goroutine that writes to it
	err = x.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: &stdout, Stderr: &stderr})
	return stdout.String() + stderr.String(), err
}

// exec runs a shell's command in a container.
func (e *env) exec(pod, container, command string) string {
	e.t.Helper()
	out, err := e.try(pod, container, "sh", "-c", command)
	if err != nil {
		e.t.Fatalf("%s in %s: %v\n%s", command, pod, err, out)
	}
	return out
}

// log is what a container has written.
func (e *env) log(pod, container string) string {
	e.t.Helper()
	r, err := e.Client.CoreV1().Pods(e.ns).GetLogs(pod, &corev1.PodLogOptions{Container: container}).Stream(e.t.Context())
	e.ok(err)
	defer r.Close()
	data, err := io.ReadAll(r)
	e.ok(err)
	return string(data)
}

// kubectl runs kubectl in the test's namespace and returns its output.
func (e *env) kubectl(args ...string) string {
	e.t.Helper()
	out, err := e.run(e.Kubectl(e.t.Context(), append([]string{"-n", e.ns}, args...)...))
	if err != nil {
		e.t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func (e *env) run(c *exec.Cmd) (string, error) {
	out, err := c.CombinedOutput()
	return string(out), err
}
