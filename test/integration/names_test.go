package integration

import (
	"os"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/test/images"
)

// TestNames: requests for one name that meet.
func TestNames(t *testing.T) {
	n := Start(t)
	n.Pull(images.Busybox)
	n.Together(map[string]func(*testing.T, *Node){
		"pods at once":       podsAtOnce,
		"containers at once": containersAtOnce,
		"another request":    otherRequest,
		"starts at once":     startsAtOnce,
		"stops at once":      stopsAtOnce,
		"create and remove":  createAndRemove,
		"remove pod at work": removeAtWork,
	})
	n.NoPanic()
}

type answer struct {
	id  string
	err error
}

func (n *Node) tryRun(p *cri.PodSandboxConfig) answer {
	r, err := n.Runtime.RunPodSandbox(n.t.Context(), &cri.RunPodSandboxRequest{Config: p})
	return answer{r.GetPodSandboxId(), err}
}

// podsAtOnce: requests that are equal and meet have one answer.
func podsAtOnce(t *testing.T, n *Node) {
	p := n.PodConfig()
	all := AllOf(20, func(int) answer { return n.tryRun(p) })
	id := ""
	for _, a := range all {
		switch {
		case status.Code(a.err) == codes.AlreadyExists: // it came after the end of the first
		case a.err != nil:
			t.Errorf("run pod: %v", a.err)
		case id != "" && a.id != id:
			t.Errorf("two pods: %s and %s", id, a.id)
		default:
			id = a.id
		}
	}
	again := n.tryRun(p)
	WantCode(t, again.err, codes.AlreadyExists, codes.OK)
	if again.err == nil && again.id != id {
		t.Errorf("a second pod under the name: %s and %s", id, again.id)
	}
	list, err := n.Runtime.ListPodSandbox(t.Context(), &cri.ListPodSandboxRequest{})
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for _, i := range list.GetItems() {
		if proto.Equal(i.GetMetadata(), p.GetMetadata()) {
			count++
		}
	}
	if count != 1 {
		t.Errorf("%d pods of the name", count)
	}
}

func containersAtOnce(t *testing.T, n *Node) {
	p := n.PodConfig()
	pod := n.RunPod(p)
	c := n.ContainerConfig("sleep", "3600")
	id := ""
	for _, a := range AllOf(20, func(int) answer {
		r, err := n.Runtime.CreateContainer(t.Context(), &cri.CreateContainerRequest{PodSandboxId: pod, Config: c, SandboxConfig: p})
		return answer{r.GetContainerId(), err}
	}) {
		switch {
		case status.Code(a.err) == codes.AlreadyExists:
		case a.err != nil:
			t.Errorf("create container: %v", a.err)
		case id != "" && a.id != id:
			t.Errorf("two containers: %s and %s", id, a.id)
		default:
			id = a.id
		}
	}
	list, err := n.Runtime.ListContainers(t.Context(), &cri.ListContainersRequest{Filter: &cri.ContainerFilter{PodSandboxId: pod}})
	if err != nil || len(list.GetContainers()) != 1 {
		t.Errorf("%d containers, %v", len(list.GetContainers()), err)
	}
}

// otherRequest: a different request under the name is refused, while the first is under
// way and after it.
func otherRequest(t *testing.T, n *Node) {
	p := n.PodConfig()
	other := proto.Clone(p).(*cri.PodSandboxConfig)
	other.Hostname = "other"
	answers := AllOf(2, func(i int) answer {
		if i == 0 {
			return n.tryRun(p)
		}
		time.Sleep(5 * time.Millisecond)
		return n.tryRun(other)
	})
	if answers[0].err == nil {
		WantCode(t, answers[1].err, codes.AlreadyExists)
	} else {
		WantCode(t, answers[0].err, codes.AlreadyExists)
	}
	WantCode(t, n.tryRun(other).err, codes.AlreadyExists)
}

// startsAtOnce: one container is started once, whoever asks.
func startsAtOnce(t *testing.T, n *Node) {
	p := n.PodConfig()
	pod := n.RunPod(p)
	c := n.ContainerConfig("sh", "-c", "echo started; sleep 3600")
	id := n.Create(pod, p, c)
	good := 0
	for _, err := range AllOf(10, func(int) error {
		_, err := n.Runtime.StartContainer(t.Context(), &cri.StartContainerRequest{ContainerId: id})
		return err
	}) {
		if err == nil {
			good++
		} else {
			WantCode(t, err, codes.FailedPrecondition)
		}
	}
	if good == 0 {
		t.Error("no start was answered with success")
	}
	Within(t, 2*time.Second, "it is started once", func() bool { return len(n.Log(p, c)) > 0 })
	if log := n.Log(p, c); len(log) > 60 {
		t.Errorf("the log is %q", log)
	}
}

// stopsAtOnce: everything about the end of a pod is idempotent.
func stopsAtOnce(t *testing.T, n *Node) {
	pod, id, _ := n.Sleeper()
	for _, err := range AllOf(30, func(i int) (err error) {
		switch i % 3 {
		case 0:
			_, err = n.Runtime.StopContainer(t.Context(), &cri.StopContainerRequest{ContainerId: id, Timeout: 1})
		case 1:
			_, err = n.Runtime.StopPodSandbox(t.Context(), &cri.StopPodSandboxRequest{PodSandboxId: pod})
		default:
			_, err = n.Runtime.RemoveContainer(t.Context(), &cri.RemoveContainerRequest{ContainerId: id})
		}
		return err
	}) {
		if err != nil && status.Code(err) != codes.NotFound {
			t.Errorf("stop: %v", err)
		}
	}
	for _, err := range AllOf(10, func(int) error {
		_, err := n.Runtime.RemovePodSandbox(t.Context(), &cri.RemovePodSandboxRequest{PodSandboxId: pod})
		return err
	}) {
		WantCode(t, err, codes.OK)
	}
}

// createAndRemove: pods of one name come and go from several clients.
func createAndRemove(t *testing.T, n *Node) {
	p := n.PodConfig()
	for _, errs := range AllOf(4, func(int) (errs []error) {
		for range 5 {
			a := n.tryRun(p)
			if a.err != nil {
				if c := status.Code(a.err); c != codes.AlreadyExists && c != codes.FailedPrecondition {
					errs = append(errs, a.err)
				}
				continue
			}
			if _, err := n.Runtime.StopPodSandbox(t.Context(), &cri.StopPodSandboxRequest{PodSandboxId: a.id}); err != nil && status.Code(err) != codes.NotFound {
				errs = append(errs, err)
			}
			if _, err := n.Runtime.RemovePodSandbox(t.Context(), &cri.RemovePodSandboxRequest{PodSandboxId: a.id}); err != nil {
				errs = append(errs, err)
			}
		}
		return errs
	}) {
		for _, err := range errs {
			t.Errorf("pods of one name: %v", err)
		}
	}
}

// removeAtWork: a pod is removed while containers are made in it.
func removeAtWork(t *testing.T, n *Node) {
	p := n.PodConfig()
	pod := n.RunPod(p)
	for _, err := range AllOf(8, func(i int) error {
		if i == 7 {
			_, err := n.Runtime.RemovePodSandbox(t.Context(), &cri.RemovePodSandboxRequest{PodSandboxId: pod})
			return err
		}
		c, err := n.Runtime.CreateContainer(t.Context(), &cri.CreateContainerRequest{PodSandboxId: pod, Config: n.ContainerConfig("sleep", "3600"), SandboxConfig: p})
		if err == nil {
			_, err = n.Runtime.StartContainer(t.Context(), &cri.StartContainerRequest{ContainerId: c.GetContainerId()})
		}
		return err
	}) {
		WantCode(t, err, codes.OK, codes.NotFound, codes.FailedPrecondition)
	}
	if _, err := n.Runtime.PodSandboxStatus(t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: pod}); status.Code(err) != codes.NotFound {
		t.Errorf("the removed pod's status: %v", err)
	}
}

// TestRetries: a client gives up, asks again and gets the answer of its first request.
func TestRetries(t *testing.T) {
	n := Start(t)
	n.Pull(images.Busybox)
	p := n.PodConfig()
	if err := os.WriteFile(n.Failpoints, []byte("run pod sandbox/record sandbox/before=slow"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := n.Runtime.RunPodSandbox(short(t, 300*time.Millisecond), &cri.RunPodSandboxRequest{Config: p})
	WantCode(t, err, codes.DeadlineExceeded)
	pod := n.RunPod(p) // joins it while it is under way
	if err := os.WriteFile(n.Failpoints, []byte("create container/record container/before=slow"), 0o644); err != nil {
		t.Fatal(err)
	}
	req := &cri.CreateContainerRequest{PodSandboxId: pod, Config: n.ContainerConfig("sleep", "3600"), SandboxConfig: p}
	_, err = n.Runtime.CreateContainer(short(t, 200*time.Millisecond), req)
	WantCode(t, err, codes.DeadlineExceeded)
	time.Sleep(1500 * time.Millisecond) // it ends with nobody waiting
	first, err := n.Runtime.CreateContainer(t.Context(), req)
	if err != nil {
		t.Fatalf("the retry: %v", err)
	}
	n.StartContainer(first.GetContainerId())
	list, err := n.Runtime.ListContainers(t.Context(), &cri.ListContainersRequest{})
	if err != nil || len(list.GetContainers()) != 1 {
		t.Errorf("%d containers, %v", len(list.GetContainers()), err)
	}
}
