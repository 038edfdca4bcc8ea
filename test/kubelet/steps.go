package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/test/harness"
)

//go:embed pod.yaml
var podManifest []byte

const (
	podName = "life-" + hostname

	// runLimit is how long a pod may take until it is ready.
	runLimit = 30 * time.Second
	// collectLimit is how long the kubelet may take to collect what is dead: it does so
	// once a minute.
	collectLimit = 150 * time.Second
)

type step struct {
	name string
	do   func(context.Context) error
}

// inside runs the steps in the node.
func inside(ctx context.Context, o options) (int, error) {
	began := time.Now()
	n, err := newNode(ctx, o)
	if err != nil {
		return 1, err
	}
	defer n.close()
	passed, failed := 0, 0
	for _, s := range n.steps() {
		err := s.do(ctx)
		at := time.Since(began).Round(100 * time.Millisecond)
		if err == nil {
			passed++
			fmt.Printf("ok   %6s %s\n", at, s.name)
			continue
		}
		failed++
		fmt.Printf("FAIL %6s %s: %v\n", at, s.name, err)
		if n.pod.Metadata.UID == "" || ctx.Err() != nil {
			break // nothing can be asked of a pod that does not run
		}
	}
	fmt.Printf("the logs are %s and %s\n%d passed, %d failed\n", n.kubelet.Log, n.daemon.Paths.Log, passed, failed)
	return min(failed, 1), nil
}

func (n *node) steps() []step {
	return []step{
		{"the kubelet starts", n.start},
		{"the pod runs within 30 s", n.runs},
		{"the kubelet uses the runtime's cgroup driver", n.driver},
		{"the memory limit is the container's", n.limit},
		{"a failed liveness probe restarts one container", n.restarted},
		{"a container that ends again waits its turn", n.backsOff},
		{"exec streams through the kubelet", n.exec},
		{"logs are where the kubelet and its clients look", n.logs},
		{"the kubelet rotates a log and no line is lost", n.rotates},
		{"stats of the pod, from its cgroups", n.stats},
		{"cricketd is killed and containers run on", n.killDaemon},
		{"the kubelet is restarted and containers run on", n.restartKubelet},
		{"stats of the pod, from the runtime", n.stats},
		{"metrics of the pod, from the runtime", n.metrics},
		{"events of the runtime reach the kubelet", n.events},
		{"users of its own, a sidecar, a hook, a host port", n.shape},
		{"without its manifest the pod goes", n.remove},
		{"nothing is left behind", n.nothingLeft},
		{"the kubelet complained of nothing unexpected", n.complaints},
	}
}

func (n *node) start(ctx context.Context) error {
	if err := n.kubelet.Start(); err != nil {
		return err
	}
	// Its cgroups and directories are there when it first looks for pods.
	err := harness.Until(ctx, time.Minute, func(ctx context.Context) error {
		if _, err := n.kubelet.pods(ctx); err != nil {
			return err
		}
		// Those of v2, and those of v1; the systemd driver's are slices.
		for _, groups := range []string{"/sys/fs/cgroup/kubepods*/*burstable*", "/sys/fs/cgroup/*/kubepods*/*burstable*"} {
			if found, err := filepath.Glob(groups); err == nil && len(found) > 0 {
				return n.kubelet.said("Starting kubelet main sync loop")
			}
		}
		return errors.New("the kubelet has made no cgroups")
	})
	if err != nil {
		return err
	}
	n.before, err = n.observe()
	return err
}

func (n *node) runs(ctx context.Context) error {
	if err := putManifest("life", podManifest); err != nil {
		return err
	}
	return harness.Until(ctx, runLimit, func(ctx context.Context) error {
		p, err := n.ready(ctx, podName)
		if err == nil {
			n.pod = p
		}
		return err
	})
}

// putManifest shows the kubelet a whole file, not one in the making.
func putManifest(name string, data []byte) error {
	path := filepath.Join(manifests, name+".yaml")
	tmp := filepath.Join(filepath.Dir(manifests), name)
	return errors.Join(os.WriteFile(tmp, data, 0o600), os.Rename(tmp, path))
}

// find returns the pod as the kubelet sees it.
func (n *node) find(ctx context.Context, name string) (pod, error) {
	pods, err := n.kubelet.pods(ctx)
	if err != nil {
		return pod{}, err
	}
	for _, p := range pods {
		if p.Metadata.Name == name {
			return p, nil
		}
	}
	return pod{}, fmt.Errorf("the kubelet has %d pods, none is called %s", len(pods), name)
}

// ready returns the pod if it is running and ready.
func (n *node) ready(ctx context.Context, name string) (pod, error) {
	p, err := n.find(ctx, name)
	if err == nil && (p.Status.Phase != "Running" || !p.ready()) {
		err = fmt.Errorf("phase %q, ready %v: %+v", p.Status.Phase, p.ready(), p.Status)
	}
	return p, err
}

// driver looks at what the kubelet logged and made.
func (n *node) driver(ctx context.Context) error {
	conf, err := n.runtime.RuntimeConfig(ctx, &cri.RuntimeConfigRequest{})
	if err != nil {
		return err
	}
	driver := "cgroupfs"
	if conf.GetLinux().GetCgroupDriver() == cri.CgroupDriver_SYSTEMD {
		driver = "systemd"
	}
	return n.kubelet.said("received from the CRI runtime", `cgroupDriver="`+driver+`"`)
}

func (n *node) limit(ctx context.Context) error {
	var got string
	var err error
	for _, file := range []string{"memory/memory.limit_in_bytes", "memory.max"} {
		if got, err = n.kubelet.run(ctx, n.pod, "app", "cat /sys/fs/cgroup/"+file); err == nil && got == "67108864" {
			return nil
		}
	}
	return fmt.Errorf("the container sees the limit %q (%w), want 64 MiB", got, err)
}

func (n *node) restarted(ctx context.Context) error {
	first := n.pod.container("web").ContainerID
	err := harness.Until(ctx, runLimit, func(ctx context.Context) error {
		p, err := n.ready(ctx, podName)
		if err != nil {
			return err
		}
		app, web := p.container("app"), p.container("web")
		if app.RestartCount != 1 || app.State.Running == nil {
			return fmt.Errorf("container app: %+v", app)
		}
		last := app.LastState.Terminated
		if last == nil || last.ExitCode != 0 || last.Reason != "Completed" || !last.FinishedAt.After(last.StartedAt) {
			return fmt.Errorf("the last state of container app: %+v", last)
		}
		if web.RestartCount != 0 || web.ContainerID != first {
			return fmt.Errorf("container web was %s, is %+v", first, web)
		}
		n.pod = p
		return nil
	})
	return errors.Join(err, n.kubelet.said("failed liveness probe", "will be restarted"))
}

// backsOff ends the container twice more: it is started again at once the first time
// that it ends by itself, and after some time from then on.
func (n *node) backsOff(ctx context.Context) error {
	if err := n.endApp(ctx); err != nil {
		return err
	}
	if err := harness.Until(ctx, runLimit, func(ctx context.Context) error { return n.appRestarts(ctx, 2) }); err != nil {
		return err
	}
	if err := n.endApp(ctx); err != nil {
		return err
	}
	err := harness.Until(ctx, runLimit, func(ctx context.Context) error {
		p, err := n.find(ctx, podName)
		if w := p.container("app").State.Waiting; err == nil && (w == nil || w.Reason != "CrashLoopBackOff") {
			err = fmt.Errorf("container app: %+v", p.container("app"))
		}
		return err
	})
	if err != nil {
		return err
	}
	return harness.Until(ctx, 2*runLimit, func(ctx context.Context) error { return n.appRestarts(ctx, 3) })
}

func (n *node) endApp(ctx context.Context) error {
	_, err := n.kubelet.run(ctx, n.pod, "app", "kill -TERM 1")
	return err
}

// appRestarts notes the pod if it is ready after so many restarts.
func (n *node) appRestarts(ctx context.Context, want int) error {
	p, err := n.ready(ctx, podName)
	if err == nil && p.container("app").RestartCount != want {
		err = fmt.Errorf("container app: %+v", p.container("app"))
	}
	if err == nil {
		n.pod = p
	}
	return err
}

// killDaemon kills cricketd under the kubelet.
func (n *node) killDaemon(ctx context.Context) error {
	if err := errors.Join(n.daemon.Kill(), n.daemon.Start(ctx)); err != nil {
		return err
	}
	return n.unchanged(ctx)
}

// restartKubelet starts a kubelet that gets figures and events from the runtime.
func (n *node) restartKubelet(ctx context.Context) error {
	n.kubelet.modern = true
	if err := errors.Join(n.kubelet.Stop(), n.kubelet.Start()); err != nil {
		return err
	}
	return n.unchanged(ctx)
}

// unchanged watches the pod for longer than the kubelet takes to look at it again.
func (n *node) unchanged(ctx context.Context) error {
	if err := harness.Until(ctx, runLimit, func(ctx context.Context) error { _, err := n.ready(ctx, podName); return err }); err != nil {
		return err
	}
	select {
	case <-time.After(8 * time.Second):
	case <-ctx.Done():
		return ctx.Err()
	}
	p, err := n.ready(ctx, podName)
	if err != nil {
		return err
	}
	if was, is := n.containers(n.pod), n.containers(p); !maps.Equal(was, is) {
		return fmt.Errorf("containers and restarts were %v, are %v", was, is)
	}
	ready := &cri.PodSandboxFilter{State: &cri.PodSandboxStateValue{State: cri.PodSandboxState_SANDBOX_READY}}
	list, err := n.runtime.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{Filter: ready})
	if err == nil && len(list.GetItems()) != 1 {
		err = fmt.Errorf("%d sandboxes, want 1", len(list.GetItems()))
	}
	return err
}

func (n *node) containers(p pod) map[string]int {
	m := map[string]int{}
	for _, c := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		m[c.ContainerID] = c.RestartCount
	}
	return m
}

// remove waits until the kubelet and the runtime do not know the pod any more.
func (n *node) remove(ctx context.Context) error {
	if err := os.Remove(manifests + "/life.yaml"); err != nil {
		return err
	}
	err := harness.Until(ctx, runLimit, func(ctx context.Context) error {
		pods, err := n.kubelet.pods(ctx)
		if err == nil && len(pods) > 0 {
			err = fmt.Errorf("the kubelet still has %s", pods[0].Metadata.Name)
		}
		return err
	})
	if err != nil {
		return err
	}
	return harness.Until(ctx, collectLimit, func(ctx context.Context) error {
		pods, podsErr := n.runtime.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
		containers, err := n.runtime.ListContainers(ctx, &cri.ListContainersRequest{})
		if err = errors.Join(podsErr, err); err != nil {
			return err
		}
		if p, c := len(pods.GetItems()), len(containers.GetContainers()); p+c > 0 {
			return fmt.Errorf("the runtime still has %d sandboxes and %d containers", p, c)
		}
		return nil
	})
}

func (n *node) nothingLeft(ctx context.Context) error {
	return harness.Until(ctx, collectLimit, func(context.Context) error { return n.left() })
}

// logDir is the directory of the pod's logs.
func (n *node) logDir() string {
	m := n.pod.Metadata
	return filepath.Join("/var/log/pods", m.Namespace+"_"+m.Name+"_"+m.UID)
}
