package integration

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/test/images"
)

type eventStream = grpc.ServerStreamingClient[cri.ContainerEventResponse]

// subscribe returns when the daemon has the subscription: it makes pods come and go
// until an event arrives.
func (n *Node) subscribe(ctx context.Context) eventStream {
	n.t.Helper()
	s, err := n.Runtime.GetContainerEvents(ctx, &cri.GetEventsRequest{})
	if err != nil {
		n.t.Fatal(err)
	}
	p := n.PodConfig()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			e, err := s.Recv()
			if err != nil || e.GetContainerEventType() == cri.ContainerEventType_CONTAINER_DELETED_EVENT && e.GetPodSandboxStatus().GetMetadata().GetName() == "subscribed" {
				return
			}
		}
	}()
	time.Sleep(200 * time.Millisecond)
	p.Metadata.Name = "subscribed"
	id := n.RunPod(p)
	if _, err := n.Runtime.RemovePodSandbox(n.t.Context(), &cri.RemovePodSandboxRequest{PodSandboxId: id}); err != nil {
		n.t.Fatal(err)
	}
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		n.t.Fatal("no events arrive")
	}
	return s
}

// TestEvents: everything that happens is told once, in its order, with the state that
// the pod has then.
func TestEvents(t *testing.T) {
	n := Start(t)
	n.Pull(images.Busybox)
	began := time.Now().UnixNano()
	s := n.subscribe(t.Context())
	const pods = 5
	type life struct {
		pod, exits, stopped string
	}
	lives := AllOf(pods, func(int) life {
		p := n.PodConfig()
		var l life
		l.pod = n.RunPod(p)
		l.exits = n.Run(l.pod, p, "sh", "-c", "exit 3")
		n.Exited(l.exits, settle)
		l.stopped = n.Run(l.pod, p, "sleep", "3600")
		for _, err := range []error{
			second(n.Runtime.StopContainer(t.Context(), &cri.StopContainerRequest{ContainerId: l.stopped})),
			second(n.Runtime.RemoveContainer(t.Context(), &cri.RemoveContainerRequest{ContainerId: l.exits})),
			second(n.Runtime.StopPodSandbox(t.Context(), &cri.StopPodSandboxRequest{PodSandboxId: l.pod})),
			second(n.Runtime.RemovePodSandbox(t.Context(), &cri.RemovePodSandboxRequest{PodSandboxId: l.pod})),
		} {
			if err != nil {
				t.Error(err)
			}
		}
		return l
	})
	got := map[string][]string{}
	for deleted := 0; deleted < pods; {
		e, err := s.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if at := e.GetCreatedAt(); at < began || at > time.Now().UnixNano() {
			t.Errorf("an event happened at %d", at)
		}
		pod := e.GetPodSandboxStatus().GetId()
		i := slices.IndexFunc(lives, func(l life) bool { return l.pod == pod })
		if i < 0 {
			continue
		}
		name := map[string]string{lives[i].pod: "pod", lives[i].exits: "first", lives[i].stopped: "second"}[e.GetContainerId()]
		kind := e.GetContainerEventType()
		got[pod] = append(got[pod], fmt.Sprintf("%s %s", name, kind))
		if name == "pod" && kind == cri.ContainerEventType_CONTAINER_DELETED_EVENT {
			deleted++
		}
		for _, c := range e.GetContainersStatuses() {
			if c.GetId() == e.GetContainerId() && kind == cri.ContainerEventType_CONTAINER_STOPPED_EVENT && c.GetState() != cri.ContainerState_CONTAINER_EXITED {
				t.Errorf("the event of the end of %s says %s", name, c.GetState())
			}
		}
	}
	want := []string{
		"pod CONTAINER_CREATED_EVENT", "pod CONTAINER_STARTED_EVENT",
		"first CONTAINER_CREATED_EVENT", "first CONTAINER_STARTED_EVENT", "first CONTAINER_STOPPED_EVENT",
		"second CONTAINER_CREATED_EVENT", "second CONTAINER_STARTED_EVENT", "second CONTAINER_STOPPED_EVENT",
		"first CONTAINER_DELETED_EVENT", "pod CONTAINER_STOPPED_EVENT", "second CONTAINER_DELETED_EVENT", "pod CONTAINER_DELETED_EVENT",
	}
	for _, l := range lives {
		if !slices.Equal(got[l.pod], want) {
			t.Errorf("the events of a pod are\n %q\nwant\n %q", got[l.pod], want)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// TestSlowSubscriber: one that does not read costs the others nothing, and learns that
// it has missed something.
func TestSlowSubscriber(t *testing.T) {
	n := Start(t)
	n.Pull(images.Busybox)
	slow, fast := n.subscribe(t.Context()), n.subscribe(t.Context())
	count := make(chan int, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		k := 0
		for ctx.Err() == nil {
			if _, err := fast.Recv(); err != nil {
				break
			}
			k++
			if k%500 == 0 {
				select {
				case count <- k:
				default:
				}
			}
		}
	}()
	const workers, each = 8, 36 // times four events are more than the daemon keeps for one
	configs := make([]*cri.PodSandboxConfig, workers*each)
	for i := range configs {
		configs[i] = n.PodConfig()
		configs[i].Linux.SecurityContext.NamespaceOptions.Network = cri.NamespaceMode_NODE
		configs[i].Annotations = map[string]string{"large": strings.Repeat("x", 100<<10)} // the connection's buffers fill
	}
	AllOf(workers, func(w int) error {
		for _, p := range configs[w*each : (w+1)*each] {
			a := n.tryRun(p)
			if a.err == nil {
				_, a.err = n.Runtime.RemovePodSandbox(t.Context(), &cri.RemovePodSandboxRequest{PodSandboxId: a.id})
			}
			if a.err != nil {
				t.Error(a.err)
				return a.err
			}
		}
		return nil
	})
	select {
	case <-count:
	case <-time.After(10 * time.Second):
		t.Error("the fast subscriber gets no events")
	}
	var err error
	for err == nil {
		_, err = slow.Recv()
	}
	WantCode(t, err, codes.ResourceExhausted)
}
