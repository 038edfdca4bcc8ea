package cri

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/codes"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/runtime"
)

func TestLifeOfAPod(t *testing.T) {
	m := newMachine(t)
	sub := m.server.events.Subscribe()
	pod := m.runPod(t, "web")
	id := m.createContainer(t, pod, "c")
	if st := m.status(t, id); st.GetState() != v1.ContainerState_CONTAINER_CREATED || st.GetStartedAt() != 0 {
		t.Errorf("created: %v", st)
	}
	m.startContainer(t, id)
	if st := m.status(t, id); st.GetState() != v1.ContainerState_CONTAINER_RUNNING || st.GetStartedAt() == 0 {
		t.Errorf("started: %v", st)
	}
	if _, err := m.server.StopContainer(t.Context(), &v1.StopContainerRequest{ContainerId: id, Timeout: 10}); err != nil {
		t.Fatal(err)
	}
	st := m.status(t, id)
	if st.GetState() != v1.ContainerState_CONTAINER_EXITED || st.GetExitCode() != 143 || st.GetReason() != "Error" || st.GetFinishedAt() < st.GetStartedAt() {
		t.Errorf("stopped: %v", st)
	}
	if st.GetImageId() != "sha256:0123" || st.GetImageRef() != "busybox@sha256:4567" || st.GetImage().GetImage() != "busybox:1" {
		t.Errorf("image: %v", st)
	}
	for range 2 {
		if _, err := m.server.StopPodSandbox(t.Context(), &v1.StopPodSandboxRequest{PodSandboxId: pod}); err != nil {
			t.Fatal(err)
		}
	}
	if n := m.hull.count("stop"); n != 1 {
		t.Errorf("stopped %d times", n)
	}
	for range 2 {
		if _, err := m.server.RemovePodSandbox(t.Context(), &v1.RemovePodSandboxRequest{PodSandboxId: pod}); err != nil {
			t.Fatal(err)
		}
	}
	if len(m.server.listContainers(nil)) != 0 || len(m.server.listSandboxes(nil)) != 0 || len(m.hull.pods) != 0 {
		t.Error("something is left")
	}
	m.server.EndEvents()
	wantEvents(t, sub.Events(), []string{
		"pod CREATED READY 0", "pod STARTED READY 0", "container CREATED READY 1", "container STARTED READY 1",
		"container STOPPED READY 1", "pod STOPPED NOTREADY 1", "container DELETED NOTREADY 0", "pod DELETED NOTREADY 0",
	})
}

// TestGuestThatKeepsItsContainers: nothing inside a machine keeps its pod from being stopped and
// removed, neither a kill that is refused nor one that is never answered. On the host's kernel
// a container that may live is no stopped one.
func TestGuestThatKeepsItsContainers(t *testing.T) {
	for name, kill := range map[string]func(context.Context) error{
		"refuses":         func(context.Context) error { return fmt.Errorf("no: %w", errdefs.ErrPermissionDenied) },
		"does not answer": func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
	} {
		for _, own := range []bool{true, false} {
			synctest.Test(t, func(t *testing.T) {
				m := newMachine(t)
				m.hull.own, m.hull.kill = own, kill
				pod := m.runPod(t, "web")
				id := m.createContainer(t, pod, "c")
				m.startContainer(t, id)
				began := time.Now()
				_, err := m.server.StopPodSandbox(t.Context(), &v1.StopPodSandboxRequest{PodSandboxId: pod})
				if !own {
					if err == nil || m.hull.count("stop") != 0 {
						t.Errorf("%s, on the host's kernel: it is said to be stopped: %v", name, err)
					}
					return
				}
				if err != nil || time.Since(began) > time.Minute {
					t.Errorf("%s: after %s: %v", name, time.Since(began), err)
				}
				if st := m.status(t, id); st.GetState() != v1.ContainerState_CONTAINER_EXITED || st.GetReason() != "Unknown" {
					t.Errorf("%s: the container is %v", name, st)
				}
				if _, err := m.server.RemovePodSandbox(t.Context(), &v1.RemovePodSandboxRequest{PodSandboxId: pod}); err != nil || len(m.hull.pods) != 0 {
					t.Errorf("%s: remove: %v", name, err)
				}
			})
		}
	}
}

// wantEvents compares what happened to whom, the sandbox's state then, and how many
// containers were described.
func wantEvents(t *testing.T, events <-chan *v1.ContainerEventResponse, want []string) {
	t.Helper()
	var got []string
	for e := range events {
		what := "container"
		if e.GetContainerId() == e.GetPodSandboxStatus().GetId() {
			what = "pod"
		}
		kind := e.GetContainerEventType().String()
		state := e.GetPodSandboxStatus().GetState().String()
		got = append(got, fmt.Sprintf("%s %s %s %d", what, kind[len("CONTAINER_"):len(kind)-len("_EVENT")], state[len("SANDBOX_"):], len(e.GetContainersStatuses())))
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("events:\n got %q\nwant %q", got, want)
	}
}

func TestExitReasons(t *testing.T) {
	at := time.Now()
	for _, tt := range []struct {
		exit   runtime.Exit
		code   int32
		reason string
	}{
		{runtime.Exit{At: at}, 0, "Completed"},
		{runtime.Exit{Code: 3, At: at}, 3, "Error"},
		{runtime.Exit{Code: 137, At: at, OOMKilled: true}, 137, "OOMKilled"},
		{runtime.Exit{Code: 0, At: at, OOMKilled: true}, 0, "OOMKilled"},
		{runtime.Exit{Unknown: true, Code: -1, At: at}, -1, "Unknown"},
	} {
		m := newMachine(t)
		pod := m.runPod(t, "p")
		id := m.createContainer(t, pod, "c")
		m.startContainer(t, id)
		m.container(pod, id).exit(tt.exit)
		if st := m.awaitExited(t, id); st.GetExitCode() != tt.code || st.GetReason() != tt.reason || st.GetFinishedAt() != at.UnixNano() {
			t.Errorf("%+v: %v", tt.exit, st)
		}
	}
}

func TestStartFailure(t *testing.T) {
	m := newMachine(t)
	id := m.createContainer(t, m.runPod(t, "p"), "c")
	attempts := 0
	m.hull.start = func(context.Context) error { attempts++; return fmt.Errorf("exec: %w", errdefs.ErrUnavailable) }
	_, err := m.server.StartContainer(t.Context(), &v1.StartContainerRequest{ContainerId: id})
	if !errdefs.IsUnavailable(err) || m.status(t, id).GetState() != v1.ContainerState_CONTAINER_CREATED || attempts != startAttempts {
		t.Errorf("a start that did not happen must be repeatable: %v after %d attempts", err, attempts)
	}
	m.hull.start = func(context.Context) error { return fmt.Errorf("no such program: %w", errdefs.ErrNotFound) }
	if _, err = m.server.StartContainer(t.Context(), &v1.StartContainerRequest{ContainerId: id}); err == nil {
		t.Fatal("no error")
	}
	if st := m.status(t, id); st.GetState() != v1.ContainerState_CONTAINER_EXITED || st.GetReason() != "StartError" || st.GetExitCode() != 128 || st.GetMessage() == "" {
		t.Errorf("status: %v", st)
	}
	_, err = m.server.StartContainer(t.Context(), &v1.StartContainerRequest{ContainerId: id})
	if !errdefs.IsFailedPrecondition(err) {
		t.Errorf("start of an exited container: %v", err)
	}
}

func TestStopJoins(t *testing.T) {
	m := newMachine(t)
	pod := m.runPod(t, "p")
	id := m.createContainer(t, pod, "c")
	m.startContainer(t, id)
	m.container(pod, id).stubborn = true
	var wg sync.WaitGroup
	for _, grace := range []int64{3600, 1, 1} {
		wg.Go(func() {
			if _, err := m.server.StopContainer(t.Context(), &v1.StopContainerRequest{ContainerId: id, Timeout: grace}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := m.hull.count("signal 15"); n != 1 {
		t.Errorf("stop signal was sent %d times", n)
	}
	if st := m.status(t, id); st.GetExitCode() != 137 {
		t.Errorf("status: %v", st)
	}
}

func TestRetryJoins(t *testing.T) {
	m := newMachine(t)
	release := make(chan struct{})
	m.hull.create = func(context.Context) error { <-release; return nil }
	req := &v1.RunPodSandboxRequest{Config: podConfig("p")}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := m.server.RunPodSandbox(ctx, req)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("impatient caller: %v", err)
	}
	other := podConfig("p")
	other.Hostname = "different"
	if _, err := m.server.RunPodSandbox(t.Context(), &v1.RunPodSandboxRequest{Config: other}); !errdefs.IsAlreadyExists(err) {
		t.Errorf("different request: %v", err)
	}
	close(release)
	got, err := m.server.RunPodSandbox(t.Context(), req)
	if err != nil || got.GetPodSandboxId() == "" {
		t.Fatalf("retry: %v", err)
	}
	if n := m.hull.count("create"); n != 1 {
		t.Errorf("created %d times", n)
	}
	if _, err := m.server.RunPodSandbox(t.Context(), req); !errdefs.IsAlreadyExists(err) {
		t.Errorf("third request: %v", err)
	}
}

func TestFailedCreationLeavesNothing(t *testing.T) {
	m := newMachine(t)
	m.hull.create = func(context.Context) error { return fmt.Errorf("no network: %w", errdefs.ErrUnavailable) }
	if _, err := m.server.RunPodSandbox(t.Context(), &v1.RunPodSandboxRequest{Config: podConfig("p")}); !errdefs.IsUnavailable(err) {
		t.Errorf("error: %v", err)
	}
	m.hull.create = func(context.Context) error { return nil }
	pod := m.runPod(t, "p")
	m.hull.make = func(context.Context) error { return errdefs.ErrInvalidArgument }
	if _, err := m.server.CreateContainer(t.Context(), &v1.CreateContainerRequest{PodSandboxId: pod, Config: containerConfig("c"), SandboxConfig: podConfig("p")}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("error: %v", err)
	}
	if n := len(m.store.Containers.List()); n != 0 {
		t.Errorf("%d records", n)
	}
}

func TestRemoveKills(t *testing.T) {
	m := newMachine(t)
	pod := m.runPod(t, "p")
	id := m.createContainer(t, pod, "c")
	m.startContainer(t, id)
	if _, err := m.server.RemoveContainer(t.Context(), &v1.RemoveContainerRequest{ContainerId: id[:12]}); err != nil {
		t.Fatal(err)
	}
	if m.hull.count("signal 9") != 1 || m.container(pod, id) != nil {
		t.Error("it was not killed and removed")
	}
}

func TestSandboxThatDies(t *testing.T) {
	m := newMachine(t)
	pod := m.runPod(t, "p")
	sub := m.server.events.Subscribe()
	_ = m.hull.pods[pod].Stop(t.Context())
	if e := <-sub.Events(); e.GetContainerEventType() != v1.ContainerEventType_CONTAINER_STOPPED_EVENT {
		t.Errorf("event: %v", e)
	}
	_, err := m.server.CreateContainer(t.Context(), &v1.CreateContainerRequest{PodSandboxId: pod, Config: containerConfig("c"), SandboxConfig: podConfig("p")})
	if !errdefs.IsFailedPrecondition(err) {
		t.Errorf("container in a dead sandbox: %v", err)
	}
}

// TestLogThatCannotBeOpened: output is never dropped silently.
func TestLogThatCannotBeOpened(t *testing.T) {
	m := newMachine(t)
	dir := t.TempDir()
	p, c := podConfig("p"), containerConfig("c")
	p.LogDirectory, c.LogPath = dir, "new/0.log"
	block := filepath.Join(dir, "new") // a file where the directory should be
	if err := os.WriteFile(block, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := m.server.RunPodSandbox(t.Context(), &v1.RunPodSandboxRequest{Config: p})
	if err != nil {
		t.Fatal(err)
	}
	req := &v1.CreateContainerRequest{PodSandboxId: r.GetPodSandboxId(), Config: c, SandboxConfig: p}
	if _, err := m.server.CreateContainer(t.Context(), req); codeOf(err) != codes.FailedPrecondition {
		t.Errorf("no place for the log: %v", err)
	}
	if n := len(m.store.Containers.List()) + m.hull.count("new container"); n != 0 {
		t.Error("it was made all the same")
	}
	if err := os.Remove(block); err != nil {
		t.Fatal(err)
	}
	if _, err := m.server.CreateContainer(t.Context(), req); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "new", "0.log")); err != nil {
		t.Error(err)
	}
}

// TestStopSignalIsSentAgain: a supervisor that did not answer costs no container its
// grace period.
func TestStopSignalIsSentAgain(t *testing.T) {
	m := newMachine(t)
	pod := m.runPod(t, "p")
	id := m.createContainer(t, pod, "c")
	m.startContainer(t, id)
	stop := &v1.StopContainerRequest{ContainerId: id, Timeout: 60}
	m.hull.ask = func(context.Context) error { return errdefs.ErrUnavailable }
	if _, err := m.server.StopContainer(t.Context(), stop); codeOf(err) != codes.Unavailable {
		t.Errorf("undelivered signal: %v", err)
	}
	m.hull.ask = func(context.Context) error { return nil }
	if _, err := m.server.StopContainer(t.Context(), stop); err != nil {
		t.Fatal(err)
	}
	if st := m.status(t, id); st.GetExitCode() != 143 || m.hull.count("signal 9") != 0 {
		t.Errorf("exit: %v", st)
	}
}

// TestUnderWay: for who learns of a pod or container while it is made, as plugins do, it is
// not there yet: waiting for it would be waiting for oneself.
func TestUnderWay(t *testing.T) {
	m := newMachine(t)
	ask := func(ctx context.Context, what string, call func(context.Context) error) {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		if err := call(ctx); codeOf(err) != codes.NotFound {
			t.Errorf("%s that is being made: %v", what, err)
		}
	}
	m.hull.create = func(ctx context.Context) error {
		pod := m.store.Sandboxes.List()[0].ID
		ask(ctx, "a container in a pod", func(ctx context.Context) error {
			_, err := m.server.CreateContainer(ctx, &v1.CreateContainerRequest{PodSandboxId: pod, Config: containerConfig("c")})
			return err
		})
		ask(ctx, "a pod", func(ctx context.Context) error {
			_, err := m.server.PodSandboxStatus(ctx, &v1.PodSandboxStatusRequest{PodSandboxId: pod})
			return err
		})
		return nil
	}
	m.hull.make = func(ctx context.Context) error {
		id := m.store.Containers.List()[0].ID
		ask(ctx, "a container", func(ctx context.Context) error {
			_, err := m.server.ContainerStatus(ctx, &v1.ContainerStatusRequest{ContainerId: id})
			return err
		})
		ask(ctx, "a container", func(ctx context.Context) error {
			_, err := m.server.StartContainer(ctx, &v1.StartContainerRequest{ContainerId: id})
			return err
		})
		return nil
	}
	m.createContainer(t, m.runPod(t, "web"), "c")
}
