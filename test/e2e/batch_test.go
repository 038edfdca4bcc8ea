package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cricket-cri/cricket/test/cluster"
)

// TestJob runs two pods beside each other until enough have succeeded.
func TestJob(t *testing.T) {
	onHulls(t, func(e *env) {
		j := &batchv1.Job{}
		e.decode(`
metadata: {name: job}
spec:
  completions: 4
  parallelism: 2
  completionMode: Indexed
  template:
    spec:
      restartPolicy: Never
      containers: [{name: app, image: BUSYBOX, command: [sh, -c, "echo index $JOB_COMPLETION_INDEX; sleep 4"]}]
`, j)
		e.in(&j.Spec.Template.Spec)
		_, err := e.Client.BatchV1().Jobs(e.ns).Create(e.t.Context(), j, metav1.CreateOptions{})
		e.ok(err)
		e.jobDone("job", 4)
		list, err := e.Client.CoreV1().Pods(e.ns).List(e.t.Context(), metav1.ListOptions{LabelSelector: "job-name=job"})
		e.ok(err)
		said := map[string]bool{}
		for _, p := range list.Items {
			said[strings.TrimSpace(e.log(p.Name, "app"))] = true
		}
		for i := range 4 {
			if !said[fmt.Sprintf("index %d", i)] {
				e.t.Errorf("nobody said index %d: %v", i, said)
			}
		}
		if n := atOnce(list.Items); n != 2 {
			e.t.Errorf("%d ran at once", n)
		}
	})
}

// atOnce is how many of the pods ran at one time, by what their containers tell.
func atOnce(pods []corev1.Pod) (most int) {
	for _, p := range pods {
		began, n := container(&p, "app").State.Terminated.StartedAt, 0
		for _, q := range pods {
			s := container(&q, "app").State.Terminated
			if !s.StartedAt.After(began.Time) && s.FinishedAt.After(began.Time) {
				n++
			}
		}
		most = max(most, n)
	}
	return most
}

func (e *env) jobDone(name string, succeeded int32) {
	e.t.Helper()
	e.eventually("job "+name+" is complete", func() error {
		j, err := e.Client.BatchV1().Jobs(e.ns).Get(e.t.Context(), name, metav1.GetOptions{})
		if err == nil && j.Status.Succeeded < succeeded {
			err = fmt.Errorf("its status is %+v", j.Status)
		}
		return err
	})
}

// TestCronJob starts a job when its time has come.
func TestCronJob(t *testing.T) {
	onHulls(t, func(e *env) {
		c := &batchv1.CronJob{}
		e.decode(`
metadata: {name: cron}
spec:
  schedule: "* * * * *"
  jobTemplate:
    spec:
      template:
        spec:
          restartPolicy: OnFailure
          containers: [{name: app, image: BUSYBOX, command: ["true"]}]
`, c)
		e.in(&c.Spec.JobTemplate.Spec.Template.Spec)
		_, err := e.Client.BatchV1().CronJobs(e.ns).Create(e.t.Context(), c, metav1.CreateOptions{})
		e.ok(err)
		// The time comes within a minute.
		e.within(time.Minute+patience, "it has run", func() error {
			c, err := e.Client.BatchV1().CronJobs(e.ns).Get(e.t.Context(), "cron", metav1.GetOptions{})
			if err == nil && c.Status.LastSuccessfulTime == nil {
				err = fmt.Errorf("its status is %+v", c.Status)
			}
			return err
		})
	})
}

// TestDaemonSet has a pod on the node.
func TestDaemonSet(t *testing.T) {
	onHulls(t, func(e *env) {
		d := &appsv1.DaemonSet{}
		e.decode(`
metadata: {name: agent}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec:
      containers: [{name: app, image: BUSYBOX, command: [sleep, "3600"]}]
`, d)
		e.in(&d.Spec.Template.Spec)
		_, err := e.Client.AppsV1().DaemonSets(e.ns).Create(e.t.Context(), d, metav1.CreateOptions{})
		e.ok(err)
		e.eventually("its pod is ready", func() error {
			d, err := e.Client.AppsV1().DaemonSets(e.ns).Get(e.t.Context(), "agent", metav1.GetOptions{})
			if err == nil && (d.Status.DesiredNumberScheduled != 1 || d.Status.NumberReady != 1) {
				err = fmt.Errorf("its status is %+v", d.Status)
			}
			return err
		})
	})
}

// TestStaticPod: a file on the node is a pod as long as it is there. Virtual machines need
// a RuntimeClass that the API server has, which a static pod may name.
func TestStaticPod(t *testing.T) {
	onHulls(t, func(e *env) {
		class := ""
		if e.hull == virtual {
			class = "runtimeClassName: vm"
		}
		file := filepath.Join(cluster.Manifests, e.ns+".yaml")
		text := strings.NewReplacer("CLASS", class).Replace(e.words().Replace(`
apiVersion: v1
kind: Pod
metadata: {name: static, namespace: NAMESPACE}
spec:
  CLASS
  terminationGracePeriodSeconds: 1
  containers: [{name: app, image: BUSYBOX, command: [sleep, "3600"]}]
`))
		e.ok(os.WriteFile(file, []byte(text), 0o644))
		e.t.Cleanup(func() { os.Remove(file) })
		name := "static-" + cluster.NodeName
		e.eventually("the API server knows it", func() error {
			_, err := e.Client.CoreV1().Pods(e.ns).Get(e.t.Context(), name, metav1.GetOptions{})
			return err
		})
		e.ready(name)
		e.ok(os.Remove(file))
		e.gone(name)
	})
}
