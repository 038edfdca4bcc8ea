package integration

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// deathBudget is how long it may take until all that is known of a pod is true when its
// machine has died, and the daemon perhaps with it.
const deathBudget = 20 * time.Second

// bury holds a pod whose machine has died to what must be true of it, and lets the life go
// on with another, as a kubelet does.
func (l *life) bury(ctx context.Context) error {
	if err := l.until(ctx, deathBudget, l.dead); err != nil {
		return err
	}
	l.deaths++
	return l.renew(ctx)
}

// renew removes the pod, whatever has become of it: the next one is another attempt.
func (l *life) renew(ctx context.Context) error {
	for _, do := range []func(context.Context) error{l.stop, l.remove} {
		if err := l.until(ctx, lifeBudget(), do); err != nil {
			return fmt.Errorf("remove the pod: %w", err)
		}
	}
	l.config.Metadata.Attempt++
	l.pod, l.containers, l.attempts = "", [2]string{}, [2]uint32{}
	return l.clearLogs()
}

// until makes a request until it succeeds or the time is over.
func (l *life) until(ctx context.Context, limit time.Duration, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var last error
	for {
		err := do(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil || last == nil { // else it is the time that was over
			last = err
		}
		select {
		case <-ctx.Done():
			return last
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// dead returns an error unless the pod is one whose machine has died: the sandbox is not
// ready, nothing runs, and no exit is made up.
func (l *life) dead(ctx context.Context) error {
	r, err := l.node.Runtime.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: l.pod}, wait)
	if err != nil {
		return err
	}
	if got := r.GetStatus().GetState(); got != cri.PodSandboxState_SANDBOX_NOTREADY {
		return fmt.Errorf("the sandbox is %s", got)
	}
	return l.ended(ctx)
}

// ended returns an error if a container of the pod runs or has an exit that cannot be.
func (l *life) ended(ctx context.Context) error {
	list, err := l.node.Runtime.ListContainers(ctx, &cri.ListContainersRequest{Filter: &cri.ContainerFilter{PodSandboxId: l.pod}}, wait)
	if err != nil {
		return err
	}
	for _, c := range list.GetContainers() {
		r, err := l.node.Runtime.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: c.GetId()}, wait)
		if status.Code(err) == codes.NotFound { // it was half made
			continue
		}
		if err != nil {
			return err
		}
		if err := truthful(r.GetStatus()); err != nil {
			return fmt.Errorf("container %s: %w", c.GetMetadata().GetName(), err)
		}
	}
	return nil
}

// truthful returns an error unless a container of a life has not been started or has
// ended in one of the ways in which it can: by itself with 7, killed, never begun, or
// nobody knows.
func truthful(s *cri.ContainerStatus) error {
	switch {
	case s.GetState() == cri.ContainerState_CONTAINER_CREATED:
		return nil
	case s.GetState() != cri.ContainerState_CONTAINER_EXITED:
		return fmt.Errorf("it is %s", s.GetState())
	case s.GetReason() == "Unknown" && s.GetExitCode() == -1,
		s.GetReason() == "StartError" && s.GetExitCode() == 128,
		s.GetReason() == "Error" && (s.GetExitCode() == 7 || s.GetExitCode() == 128+int32(unix.SIGKILL)):
		return nil
	}
	return fmt.Errorf("it has exit code %d (%s: %s)", s.GetExitCode(), s.GetReason(), s.GetMessage())
}

// killMachines ends all machines of the node at once.
func (n *Node) killMachines(context.Context) (killed int, err error) {
	pids, err := machinePids()
	if err != nil {
		return 0, err
	}
	for _, pid := range pids {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return 0, fmt.Errorf("kill machine: %w", err)
		}
	}
	return len(pids), machinesEnd(pids)
}

// machinesEnd waits for the ends of machines.
func machinesEnd(pids []int) error {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		now, err := machinePids()
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(pids, func(pid int) bool { return slices.Contains(now, pid) }) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("machines run on: %v of %v", now, pids)
		}
	}
}

// errNoPanic says that the guest's kernel has no magic keys.
var errNoPanic = errors.New("the guest's kernel cannot be made to panic; " + kernelEnv + " chooses another")

// panicGuest ends a guest from within, as a process 1 does that dies: its kernel panics.
// Where no container runs that could do it, nothing happens.
func (n *Node) panicGuest(ctx context.Context) (killed int, err error) {
	running := &cri.ContainerFilter{State: &cri.ContainerStateValue{State: cri.ContainerState_CONTAINER_RUNNING}}
	list, err := n.Runtime.ListContainers(ctx, &cri.ListContainersRequest{Filter: running})
	if err != nil || len(list.GetContainers()) == 0 {
		return 0, err
	}
	pids, err := machinePids()
	if err != nil {
		return 0, err
	}
	r, err := n.Runtime.ExecSync(ctx, &cri.ExecSyncRequest{
		ContainerId: list.GetContainers()[0].GetId(), Cmd: []string{"sh", "-c", panicNow}, Timeout: 20,
	})
	switch {
	case r.GetExitCode() == 44:
		return 0, errNoPanic
	case r.GetExitCode() == 128+int32(unix.SIGKILL): // its container was stopped
		return 0, nil
	case err == nil:
		return 0, fmt.Errorf("the exec that ended its machine has succeeded: %v", r)
	}
	return 1, machinesEnd(pids)
}
