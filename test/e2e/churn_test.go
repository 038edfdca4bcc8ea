package e2e

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/cricket-cri/cricket/test/cluster"
	"github.com/cricket-cri/cricket/test/harness"
)

// longEnv asks for the long variants of tests.
const longEnv = "CRICKET_TEST_LONG"

// TestChurn creates, scales, rolls out, deletes, executes and follows logs in both hulls
// while the daemon, the monitor and the kubelet are killed: for ten minutes with
// CRICKET_TEST_LONG, every 20 to 40 seconds. What nobody killed is never restarted, what
// ends tells its exit code, the cluster comes to rest and nothing is left.
func TestChurn(t *testing.T) {
	if chosenRuntime() != cluster.Cricket {
		return // only Cricket's processes are known here
	}
	seed, err := harness.Seed()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s=%d", harness.SeedEnv, seed)
	c := &churn{random: rand.New(rand.NewPCG(seed, 0))}
	var before harness.Snapshot
	// The namespace goes first, then comes the look for what is left.
	t.Run("quiet", func(t *testing.T) {
		c.begin(newEnv(t, kernel))
		c.settle()
	})
	before = c.rest(t)
	t.Run("killing", func(t *testing.T) {
		c.begin(newEnv(t, kernel))
		t.Cleanup(c.followers.Wait) // the test's context has ended by then
		c.run(tempoOf())
		c.settle()
	})
	var left []string
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Second) {
		left = before.Leaks(c.rest(t))
		if len(left) == 0 || time.Now().After(deadline) {
			break
		}
	}
	if len(left) > 0 {
		t.Errorf("left behind:\n  %s", strings.Join(left, "\n  "))
	}
}

// churn is a namespace in motion. Its methods are for one goroutine.
type churn struct {
	*env
	random *rand.Rand
	hulls  []string
	kills  int
	// monitors counts the kills of the monitor, each of which may cost a stream a line:
	// SPECIFICATION.md.
	monitors atomic.Int64
	// kubelets are the times at which the kubelet was killed.
	kubelets []time.Time
	execs    int
	jobs     int          // pods that end by themselves, made so far
	lines    atomic.Int64 // of logs that were followed
	// followers read logs until their pods are gone.
	followers sync.WaitGroup
}

func (c *churn) begin(e *env) {
	c.env, c.hulls = e, nil
	for _, hull := range []string{kernel, virtual} {
		if only := os.Getenv(hullEnv); only == "" || only == hull {
			c.hulls = append(c.hulls, hull)
			c.deploy(hull)
		}
	}
}

// as is the same namespace with pods of the given hull.
func (c *churn) as(hull string) *env {
	e := *c.env
	e.hull = hull
	return &e
}

func (c *churn) deploy(hull string) {
	c.as(hull).deploy(`
metadata: {name: ` + hull + `}
spec:
  replicas: 1
  selector: {matchLabels: {app: ` + hull + `}}
  template:
    metadata: {labels: {app: ` + hull + `}}
    spec:
      containers:
        - name: app
          image: BUSYBOX
          command: [sh, -c, "trap 'exit 0' TERM; i=0; while :; do echo tick $i; i=$((i+1)); sleep 0.2; done"]
`)
}

// most is how many pods of a hull there may be at a time: machines are emulated here.
func most(hull string) int32 {
	if hull == virtual {
		return 3
	}
	return 10
}

// tempo is how long there is churn, how long there is none between two things at least, and
// the shortest time between two kills, the longest being twice that.
type tempo struct{ length, pace, pause time.Duration }

// tempoOf leaves machines, where there is nothing else, the time to become ready at all:
// they are emulated.
func tempoOf() tempo {
	t := tempo{length: time.Minute, pace: 300 * time.Millisecond, pause: 5 * time.Second}
	if os.Getenv(hullEnv) == virtual {
		t = tempo{length: 3 * time.Minute, pace: 2 * time.Second, pause: 15 * time.Second}
	}
	if os.Getenv(longEnv) != "" {
		t.length, t.pause = 10*time.Minute, 20*time.Second
	}
	return t
}

// run does one thing after another, and kills.
func (c *churn) run(is tempo) {
	end := time.Now().Add(is.length)
	next := func() time.Time {
		return time.Now().Add(is.pause + time.Duration(c.random.Int64N(int64(is.pause))))
	}
	for kill := next(); time.Now().Before(end); time.Sleep(is.pace) {
		if time.Now().After(kill) {
			c.kill()
			kill = next()
		}
		hull := c.hulls[c.random.IntN(len(c.hulls))]
		things := []func(string){c.scale, c.rollOut, c.deleteOne, c.execOne, c.execOne, c.followOne, c.job}
		things[c.random.IntN(len(things))](hull)
		c.look()
	}
	c.t.Logf("%d kills, %d commands executed, %d lines of logs followed, %d pods that end", c.kills, c.execs, c.lines.Load(), c.jobs)
	minutes := int(is.length / time.Minute)
	if c.kills < int(is.length/is.pause/3) || c.execs < 2*minutes || c.lines.Load() < int64(20*minutes) || c.jobs < minutes/2 {
		c.t.Error("that is too little to prove anything")
	}
}

func (c *churn) kill() {
	c.kills++
	switch c.random.IntN(3) {
	case 0:
		c.ok(c.Runtime.Kill())
		c.ok(c.Runtime.Start(c.t.Context()))
	case 1:
		pid, err := c.Runtime.Paths.MonitorPid()
		c.ok(err)
		c.monitors.Add(1)
		c.ok(unix.Kill(pid, unix.SIGKILL))
	default:
		c.kubelets = append(c.kubelets, time.Now())
		c.ok(c.RestartKubelet())
	}
}

func (c *churn) patch(hull, patch string) {
	_, err := c.Client.AppsV1().Deployments(c.ns).Patch(c.t.Context(), hull, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{})
	c.ok(err)
}

func (c *churn) scale(hull string) {
	c.patch(hull, fmt.Sprintf(`{"spec": {"replicas": %d}}`, c.random.Int32N(most(hull)+1)))
}

func (c *churn) rollOut(hull string) {
	c.patch(hull, fmt.Sprintf(`{"spec": {"template": {"metadata": {"annotations": {"at": "%d"}}}}}`, c.random.Int64()))
}

// pods are those that run and are to stay.
func (c *churn) pods(hull string) []corev1.Pod {
	list, err := c.Client.CoreV1().Pods(c.ns).List(c.t.Context(), metav1.ListOptions{LabelSelector: "app=" + hull})
	c.ok(err)
	return slices.DeleteFunc(list.Items, func(p corev1.Pod) bool {
		return p.DeletionTimestamp != nil || isReady(&p) != nil
	})
}

// one is one of the pods, "" if there is none.
func (c *churn) one(hull string) string {
	pods := c.pods(hull)
	if len(pods) == 0 {
		return ""
	}
	return pods[c.random.IntN(len(pods))].Name
}

func (c *churn) deleteOne(hull string) {
	if pod := c.one(hull); pod != "" {
		c.ok(c.Client.CoreV1().Pods(c.ns).Delete(c.t.Context(), pod, metav1.DeleteOptions{}))
	}
}

// execOne may meet a program that was just killed, or a pod that is just going.
func (c *churn) execOne(hull string) {
	pod := c.one(hull)
	if pod == "" {
		return
	}
	out, err := c.try(pod, "app", "echo", "hello")
	switch {
	case err == nil && out != "hello\n":
		c.t.Errorf("exec says %q", out)
	case err == nil:
		c.execs++
	}
}

var tick = regexp.MustCompile(`^tick (\d+)$`)

// followOne reads a log as long as it goes; no line of it may be missing but for the
// monitor's deaths.
func (c *churn) followOne(hull string) {
	pod := c.one(hull)
	if pod == "" {
		return
	}
	stream, err := c.Client.CoreV1().Pods(c.ns).GetLogs(pod, &corev1.PodLogOptions{Follow: true}).Stream(c.t.Context())
	if err != nil {
		return // the kubelet or the pod is away
	}
	t, mayLose := c.t, -c.monitors.Load()
	c.followers.Go(func() {
		defer stream.Close()
		defer context.AfterFunc(t.Context(), func() { stream.Close() })()
		lines, want := bufio.NewScanner(stream), 0
		for lines.Scan() {
			m := tick.FindStringSubmatch(lines.Text())
			if m == nil {
				continue // the kubelet's own, or cut
			}
			n, _ := strconv.Atoi(m[1])
			if n < want || int64(n-want) > mayLose+c.monitors.Load() {
				t.Errorf("in the log of %s line %d comes for line %d", pod, n, want)
				return
			}
			mayLose -= int64(n - want)
			want = n + 1
			c.lines.Add(1)
		}
	})
}

// job makes a pod that ends by itself, with 7.
func (c *churn) job(hull string) {
	if hull == virtual && c.jobs%3 != 0 {
		return
	}
	name := fmt.Sprintf("job-%d", c.jobs)
	c.jobs++
	c.as(hull).pod(name, "restartPolicy: Never\ncontainers: [{name: app, image: BUSYBOX, command: [sh, -c, 'sleep 1; exit 7']}]",
		func(p *corev1.Pod) { p.Labels["app"] = "job" })
}

// look finds containers that were started again, and wrong exit codes. Pods that have ended
// go.
func (c *churn) look() {
	list, err := c.Client.CoreV1().Pods(c.ns).List(c.t.Context(), metav1.ListOptions{})
	c.ok(err)
	for _, p := range list.Items {
		s := container(&p, "app")
		if s.RestartCount > 0 && !c.neverStarted(&p, s) {
			c.t.Fatalf("a container of %s was restarted: %+v", p.Name, s)
		}
		if p.Labels["app"] != "job" || s.State.Terminated == nil || p.DeletionTimestamp != nil {
			continue
		}
		if code := s.State.Terminated.ExitCode; code != 7 {
			c.t.Errorf("%s has ended with %d (%s), not with 7", p.Name, code, s.State.Terminated.Reason)
		}
		c.ok(c.Client.CoreV1().Pods(c.ns).Delete(c.t.Context(), p.Name, metav1.DeleteOptions{}))
	}
}

// neverStarted says of a container with a restart that of the two one never ran: a kubelet
// that is killed between the creation of a container and its start counts the one that it
// finds, and makes another (as with containerd: docs/limitations.md). When that one has
// ended, since its pod goes, the kubelet may tell of it as the one before.
func (c *churn) neverStarted(p *corev1.Pod, s corev1.ContainerStatus) bool {
	var ran []time.Time
	for _, state := range []corev1.ContainerState{s.State, s.LastTerminationState} {
		switch {
		case state.Running != nil:
			ran = append(ran, state.Running.StartedAt.Time)
		case state.Terminated != nil && !state.Terminated.StartedAt.IsZero(): // else nobody knows of a start
			ran = append(ran, state.Terminated.StartedAt.Time)
		}
	}
	if s.RestartCount > 1 || len(ran) > 1 {
		return false
	}
	started := time.Now()
	if len(ran) == 1 {
		started = ran[0]
	}
	return slices.ContainsFunc(c.kubelets, func(killed time.Time) bool {
		return killed.After(p.CreationTimestamp.Time) && killed.Before(started.Add(time.Second))
	})
}

// settle waits until there is what is asked for and nothing else.
func (c *churn) settle() {
	for _, hull := range c.hulls {
		c.patch(hull, `{"spec": {"replicas": 2}}`)
	}
	for _, hull := range c.hulls {
		c.rolledOut(hull, 2)
	}
	c.eventually("the cluster comes to rest", func() error {
		c.look()
		list, err := c.Client.CoreV1().Pods(c.ns).List(c.t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		if want := 2 * len(c.hulls); len(list.Items) != want {
			var states []string
			for _, p := range list.Items {
				states = append(states, fmt.Sprintf("%s is %s since %v", p.Name, p.Status.Phase, p.DeletionTimestamp))
			}
			return fmt.Errorf("there are %d pods and not %d: %q", len(list.Items), want, states)
		}
		return nil
	})
}

// restarts is what changes on a node whose daemons are killed.
var restarts = regexp.MustCompile(`^process .*(cricketd|cricket-monitor|kubelet|kworker)`)

// Machines come and go, those that wait too, and with them their directories: only how many
// there are says something.
var (
	machine      = regexp.MustCompile(`^process .*qemu.*`)
	machineMount = regexp.MustCompile(`^(mount .*/(?:layers|pool|template)/).*`)
)

// rest is what the node holds, but for its own programs.
func (c *churn) rest(t *testing.T) harness.Snapshot {
	t.Helper()
	all, err := harness.Observe(c.Runtime.Paths.Leases)
	if err != nil {
		t.Fatal(err)
	}
	s := harness.Snapshot{}
	for line, n := range all {
		if !restarts.MatchString(line) {
			s[machineMount.ReplaceAllString(machine.ReplaceAllString(line, "process qemu"), "${1}*")] += n
		}
	}
	return s
}
