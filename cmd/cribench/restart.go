package main

import (
	"context"
	"fmt"
	"os/exec"
	"time"

	"google.golang.org/grpc"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	// restartTime is how long a daemon may take to find its pods again.
	restartTime = 5 * time.Minute
	// restartStep is how often it is asked.
	restartStep = 2 * time.Millisecond
)

// measureRestart restarts each daemon while it has many pods.
func measureRestart(ctx context.Context, s *session) error {
	return s.each(ctx, "all restarts", func(b *bench) error {
		err := b.restarts(ctx)
		// Other endpoints may be of the same daemon.
		for _, other := range s.benches {
			if _, hello := other.runtime.Version(ctx, &cri.VersionRequest{}, grpc.WaitForReady(true)); hello != nil && err == nil {
				err = fmt.Errorf("%s does not answer any more: %w", other.endpoint.name, hello)
			}
		}
		return err
	})
}

func (b *bench) restarts(ctx context.Context) error {
	n := b.endpoint.restartPods
	all := b.newPods(n)
	defer all.remove(ctx)
	if err := all.start(ctx, b.o.workers); err != nil {
		return err
	}
	m := b.meter("restart")
	for range b.o.restarts {
		err := m.timed(fmt.Sprintf("until %d pods are told right", n), func() error { return b.restart(ctx, n) })
		if err != nil {
			return err
		}
		// What it tells it can also reach.
		if err := all[0].exec(ctx, silent()); err != nil {
			return err
		}
	}
	return nil
}

// restart runs the endpoint's command and waits until n pods of the run are told ready and
// their containers running.
func (b *bench) restart(ctx context.Context, n int) error {
	c := exec.CommandContext(ctx, "sh", "-c", b.endpoint.restart)
	// What the command leaves running may keep its output open.
	c.WaitDelay = time.Second
	if out, err := c.CombinedOutput(); err != nil && !c.ProcessState.Success() {
		return fmt.Errorf("%s: %w: %.200s", b.endpoint.restart, err, out)
	}
	var last error
	for began := time.Now(); time.Since(began) < restartTime; {
		if last = b.tells(ctx, n); last == nil {
			return nil
		}
		if err := pause(ctx, restartStep); err != nil {
			return err
		}
	}
	return fmt.Errorf("not right after %s: %w", restartTime, last)
}

func (b *bench) tells(ctx context.Context, n int) error {
	ours := map[string]string{runLabel: b.id}
	pods, err := b.runtime.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{Filter: &cri.PodSandboxFilter{LabelSelector: ours}})
	if err != nil {
		return err
	}
	containers, err := b.runtime.ListContainers(ctx, &cri.ListContainersRequest{Filter: &cri.ContainerFilter{LabelSelector: ours}})
	if err != nil {
		return err
	}
	ready, running := 0, 0
	for _, p := range pods.GetItems() {
		if p.GetState() == cri.PodSandboxState_SANDBOX_READY {
			ready++
		}
	}
	for _, c := range containers.GetContainers() {
		if c.GetState() == cri.ContainerState_CONTAINER_RUNNING {
			running++
		}
	}
	if ready != n || running != n {
		return fmt.Errorf("%d pods are ready and %d containers run, of %d", ready, running, n)
	}
	return nil
}
