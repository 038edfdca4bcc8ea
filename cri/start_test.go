package cri

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/runtime"
)

// TestStartWithoutMonitor: a monitor that dies during a start costs no container.
func TestStartWithoutMonitor(t *testing.T) {
	m := newMachine(t)
	id := m.createContainer(t, m.runPod(t, "p"), "c")
	deaths := 1
	m.hull.start = func(context.Context) error {
		if deaths--; deaths >= 0 {
			return fmt.Errorf("call monitor: %w", errdefs.ErrUnavailable)
		}
		return nil
	}
	m.startContainer(t, id)
	if st := m.status(t, id); st.GetState() != v1.ContainerState_CONTAINER_RUNNING {
		t.Errorf("status: %v", st)
	}
}

// TestStartEndsWithoutMonitor: a process that ended while nobody looked has run.
func TestStartEndsWithoutMonitor(t *testing.T) {
	for name, last := range map[string]error{"known at once": nil, "found out later": errors.New("it cannot be started any more")} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			pod := m.runPod(t, "p")
			id := m.createContainer(t, pod, "c")
			c := m.container(pod, id)
			exit := func() {
				c.mu.Lock()
				c.state.Phase = runtime.Running
				c.mu.Unlock()
				c.exit(runtime.Exit{At: time.Now()})
			}
			starts := 0
			m.hull.start = func(context.Context) error {
				if starts++; starts > 1 {
					time.AfterFunc(50*time.Millisecond, exit)
					return last
				}
				if last == nil {
					exit()
				}
				return fmt.Errorf("call monitor: %w", errdefs.ErrUnavailable)
			}
			m.startContainer(t, id)
			<-m.server.live.container(id).exited
			if st := m.status(t, id); st.GetExitCode() != 0 || st.GetReason() != "Completed" || st.GetStartedAt() == 0 {
				t.Errorf("status: %v", st)
			}
		})
	}
}
