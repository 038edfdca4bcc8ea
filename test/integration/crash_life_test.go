package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/test/images"
)

// lifeBudget bounds one request of a life with all its retries. In virtual machines a
// daemon that has been killed makes a template before it makes a pod.
func lifeBudget() time.Duration {
	if InVMs() {
		return 5 * time.Minute
	}
	return time.Minute
}

// life is a pod from the pull of its image to the removal of both, as a kubelet leads
// it: every request is made again until it succeeds. All lives have the same names.
type life struct {
	node   *Node
	config *cri.PodSandboxConfig
	image  string
	pod    string
	// containers: the first is stopped and removed by itself, the second ends with the
	// pod.
	containers [2]string
	attempts   [2]uint32
	// unknownExit: exits need not be known.
	unknownExit bool
	// mortal: the pod's machine may die at any time, see bury.
	mortal bool
	deaths int
	// between is called after each answer, with the request's error. If it returns true,
	// a failed request is made again.
	between func(request string, err error) (again bool, fatal error)
}

func newLife(n *Node) *life {
	logs := filepath.Join(n.Paths.Dir, "logs", "life")
	l := &life{
		node: n, image: images.Busybox,
		between: func(_ string, err error) (bool, error) { return false, err },
		config: &cri.PodSandboxConfig{
			Metadata:     &cri.PodSandboxMetadata{Name: "life", Namespace: "test", Uid: "life"},
			LogDirectory: logs,
			PortMappings: []*cri.PortMapping{{Protocol: cri.Protocol_TCP, ContainerPort: 80, HostPort: 18081}},
			Linux: &cri.LinuxPodSandboxConfig{SecurityContext: &cri.LinuxSandboxSecurityContext{
				// A process keeps this namespace: more can be left behind.
				NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_POD},
				// Some deaths of machines come from within.
				Privileged: InVMs(),
			}},
		},
	}
	return l
}

// wait lets a request wait for a daemon that is being started.
var wait = grpc.WaitForReady(true)

// request is one of those that make up a life.
type request struct {
	name string
	do   func(context.Context) error
}

func (l *life) requests() []request {
	return []request{
		{"pull image", l.pull},
		{"run pod", l.run},
		{"create first", func(ctx context.Context) error { return l.create(ctx, 0) }},
		{"start first", func(ctx context.Context) error { return l.start(ctx, 0) }},
		{"create second", func(ctx context.Context) error { return l.create(ctx, 1) }},
		{"start second", func(ctx context.Context) error { return l.start(ctx, 1) }},
		{"exec", l.exec},
		{"stop first", l.stopContainer},
		{"remove first", l.removeContainer},
		{"stop pod", l.stop},
		{"remove pod", l.remove},
		{"remove image", l.removeImage},
	}
}

// lead leads the life; it returns the first error that the retries did not mend. A pod
// whose machine has died is buried, and another takes its place.
func (l *life) lead(ctx context.Context) error {
	requests := l.requests()
	for i := 0; i < len(requests); i++ {
		r := requests[i]
		err := l.insist(ctx, r.name, r.do)
		if err == nil {
			continue
		}
		next := l.bury
		switch {
		case errors.Is(err, errAnew):
			next = l.renew
		case !l.mortal || l.pod == "":
			return fmt.Errorf("%s: %w", r.name, err)
		}
		if err2 := next(ctx); err2 != nil {
			return fmt.Errorf("%s: %w", r.name, errors.Join(err, err2))
		}
		i = 0 // the image is there
	}
	return nil
}

// insist makes a request until it succeeds.
func (l *life) insist(ctx context.Context, name string, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, lifeBudget())
	defer cancel()
	for {
		err := do(ctx)
		again, fatal := l.between(name, err)
		if fatal != nil || err == nil {
			return fatal
		}
		if !again {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// clearLogs is for a new pod, which has no logs yet.
func (l *life) clearLogs() error {
	logs := l.config.GetLogDirectory()
	return errors.Join(os.RemoveAll(logs), os.MkdirAll(logs, 0o755))
}

func (l *life) pull(ctx context.Context) error {
	if err := l.clearLogs(); err != nil {
		return err
	}
	_, err := l.node.Images.PullImage(ctx, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: l.image}}, wait)
	return err
}

// run runs the pod. A sandbox whose answer was lost is in the list, where a kubelet finds it.
func (l *life) run(ctx context.Context) error {
	r, err := l.node.Runtime.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: l.config}, wait)
	if status.Code(err) != codes.AlreadyExists {
		l.pod = r.GetPodSandboxId()
		return err
	}
	list, listErr := l.node.Runtime.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{}, wait)
	if listErr != nil {
		return listErr
	}
	if len(list.GetItems()) != 1 {
		return fmt.Errorf("%w, but there are: %v", err, list.GetItems())
	}
	l.pod = list.GetItems()[0].GetId()
	if list.GetItems()[0].GetState() != cri.PodSandboxState_SANDBOX_READY {
		return fmt.Errorf("%w, but it is not ready: %v", err, list.GetItems()[0])
	}
	return nil
}

func (l *life) create(ctx context.Context, i int) error {
	c := l.node.ContainerConfig("sh", "-c", "trap 'exit 7' TERM; echo begun; while :; do sleep 0.02; done")
	c.Metadata = &cri.ContainerMetadata{Name: fmt.Sprintf("life-%d", i), Attempt: l.attempts[i]}
	c.LogPath = fmt.Sprintf("%d_%d.log", i, l.attempts[i])
	c.Linux.SecurityContext = &cri.LinuxContainerSecurityContext{Privileged: InVMs()}
	if err := l.unlogged(ctx, c); err != nil {
		return err
	}
	r, err := l.node.Runtime.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: l.pod, Config: c, SandboxConfig: l.config}, wait)
	if status.Code(err) != codes.AlreadyExists {
		l.containers[i] = r.GetContainerId()
		return err
	}
	known, listErr := l.listed(ctx, c)
	if listErr != nil {
		return listErr
	}
	if known != nil {
		if known.GetState() != cri.ContainerState_CONTAINER_CREATED {
			return fmt.Errorf("%w, but it is %s", err, known.GetState())
		}
		l.containers[i] = known.GetId()
		return nil
	}
	return fmt.Errorf("%w, but it is not in the list", err)
}

// listed is the container of that name and attempt, nil if the list has none.
func (l *life) listed(ctx context.Context, c *cri.ContainerConfig) (*cri.Container, error) {
	list, err := l.node.Runtime.ListContainers(ctx, &cri.ListContainersRequest{}, wait)
	for _, known := range list.GetContainers() {
		m := known.GetMetadata()
		if m.GetName() == c.GetMetadata().GetName() && m.GetAttempt() == c.GetMetadata().GetAttempt() {
			return known, err
		}
	}
	return nil, err
}

// unlogged fails if there is a log of a container that is not there: a kubelet would count
// it as a start.
func (l *life) unlogged(ctx context.Context, c *cri.ContainerConfig) error {
	// First wait for a daemon that is being started, and cleans up.
	if known, err := l.listed(ctx, c); err != nil || known != nil {
		return err
	}
	// What could not be undone at once is undone soon, and a kubelet waits before it tries again.
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if _, err := os.Lstat(filepath.Join(l.config.GetLogDirectory(), c.GetLogPath())); err != nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("there is no container %s, but its log", c.GetMetadata().GetName())
		}
	}
}

// start starts a container. One that runs although its start was not answered is what
// a kubelet wants; in the place of one that has exited it makes another.
func (l *life) start(ctx context.Context, i int) error {
	_, err := l.node.Runtime.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: l.containers[i]}, wait)
	if status.Code(err) != codes.FailedPrecondition {
		return err
	}
	s, statusErr := l.node.Runtime.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: l.containers[i]}, wait)
	if statusErr != nil {
		return statusErr
	}
	switch s.GetStatus().GetState() {
	case cri.ContainerState_CONTAINER_RUNNING:
		return nil
	case cri.ContainerState_CONTAINER_EXITED:
		l.attempts[i]++
		if err := l.create(ctx, i); err != nil {
			return err
		}
		_, err = l.node.Runtime.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: l.containers[i]}, wait)
	}
	return err
}

func (l *life) exec(ctx context.Context) error {
	for _, id := range l.containers {
		r, err := l.node.Runtime.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-c", "exit 3"}, Timeout: 30}, wait)
		if err != nil {
			return err
		}
		if r.GetExitCode() != 3 {
			return fmt.Errorf("exit code %d, want 3", r.GetExitCode())
		}
	}
	return nil
}

func (l *life) stopContainer(ctx context.Context) error {
	id := l.containers[0]
	if _, err := l.node.Runtime.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: id, Timeout: 10}, wait); err != nil {
		return err
	}
	r, err := l.node.Runtime.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: id}, wait)
	if err != nil {
		return err
	}
	s := r.GetStatus()
	if l.unknownExit && s.GetState() == cri.ContainerState_CONTAINER_EXITED && s.GetReason() == "Unknown" {
		return nil
	}
	if s.GetState() != cri.ContainerState_CONTAINER_EXITED || s.GetExitCode() != 7 {
		return fmt.Errorf("the stopped container is %s with exit code %d (%s), want 7", s.GetState(), s.GetExitCode(), s.GetReason())
	}
	return nil
}

func (l *life) removeContainer(ctx context.Context) error {
	_, err := l.node.Runtime.RemoveContainer(ctx, &cri.RemoveContainerRequest{ContainerId: l.containers[0]}, wait)
	return err
}

// stop stops the pod, of which nothing runs then.
func (l *life) stop(ctx context.Context) error {
	if _, err := l.node.Runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: l.pod}, wait); err != nil {
		return err
	}
	return l.dead(ctx)
}

func (l *life) remove(ctx context.Context) error {
	_, err := l.node.Runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: l.pod}, wait)
	return err
}

func (l *life) removeImage(ctx context.Context) error {
	_, err := l.node.Images.RemoveImage(ctx, &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: l.image}}, wait)
	return err
}
