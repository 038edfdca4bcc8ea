package cri

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/codes"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/cri/store"
	"github.com/cricket-cri/cricket/runtime"
)

func TestReconcile(t *testing.T) {
	for _, tt := range []struct {
		name   string
		facts  []fact
		traces traces
		want   []action
	}{
		{"nothing", nil, traces{}, nil},
		{"settled", []fact{{kind: kindSandbox, id: "a", live: true}, {kind: kindContainer, id: "c", live: true}}, traces{sandboxes: []string{"a"}}, nil},
		{"after a start", []fact{{kind: kindContainer, id: "c"}, {kind: kindSandbox, id: "a", handler: "h"}}, traces{sandboxes: []string{"a"}},
			[]action{{verb: adopt, kind: kindSandbox, id: "a", handler: "h"}, {verb: adopt, kind: kindContainer, id: "c"}}},
		{"intents", []fact{{kind: kindSandbox, id: "a", handler: "h", pending: true}, {kind: kindContainer, id: "c", pending: true, live: true}}, traces{sandboxes: []string{"a"}},
			[]action{{verb: undo, kind: kindSandbox, id: "a", handler: "h"}, {verb: undo, kind: kindContainer, id: "c"}}},
		{"under way", []fact{{kind: kindSandbox, id: "a", pending: true, busy: true}, {kind: kindContainer, id: "c", busy: true}}, traces{sandboxes: []string{"a"}}, nil},
		{"broken stays", []fact{{kind: kindSandbox, id: "a", broken: true}}, traces{sandboxes: []string{"a"}}, nil},
		{"traces without a record", []fact{{kind: kindContainer, id: "b", live: true}}, traces{sandboxes: []string{"b"}}, []action{{verb: sweep, kind: kindSandbox, id: "b", handler: "h"}}},
		{"container without a record", []fact{{kind: kindSandbox, id: "a", live: true}, {kind: kindContainer, id: "c", live: true}},
			traces{sandboxes: []string{"a"}, containers: map[string]string{"c": "a", "d": "a"}},
			[]action{{verb: sweep, kind: kindContainer, id: "d", handler: "h", sandbox: "a"}}},
		{"container being created", []fact{{kind: kindSandbox, id: "a", live: true}, {kind: kindContainer, id: "c", pending: true, busy: true}},
			traces{containers: map[string]string{"c": "a"}}, nil},
		{"container in a sandbox that is worked at", []fact{{kind: kindSandbox, id: "a", live: true, busy: true}},
			traces{containers: map[string]string{"d": "a"}}, nil},
		{"container in a sandbox that is undone", []fact{{kind: kindSandbox, id: "a", handler: "h", pending: true}},
			traces{containers: map[string]string{"d": "a"}}, []action{{verb: undo, kind: kindSandbox, id: "a", handler: "h"}}},
		{"container behind a record that cannot be read", []fact{{kind: kindSandbox, id: "a", live: true}, {kind: kindContainer, id: "c", broken: true}},
			traces{containers: map[string]string{"c": "a"}}, nil},
		{"container in a sandbox without a record", nil, traces{sandboxes: []string{"a"}, containers: map[string]string{"d": "a"}},
			[]action{{verb: sweep, kind: kindSandbox, id: "a", handler: "h"}}},
	} {
		got := reconcile(tt.facts, map[string]traces{"h": tt.traces, "i": {containers: tt.traces.containers}})
		if len(got) != len(tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
			continue
		}
		for i := range got {
			if got[i] != tt.want[i] {
				t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
			}
		}
	}
}

func TestRestartAdopts(t *testing.T) {
	m := newMachine(t)
	pod := m.runPod(t, "p")
	created, running, left := m.createContainer(t, pod, "created"), m.createContainer(t, pod, "running"), m.createContainer(t, pod, "left")
	m.startContainer(t, running)
	m.startContainer(t, left)
	m.end(t)
	at := time.Now().Add(-time.Hour)
	m.container(pod, left).exit(runtime.Exit{Code: 7, At: at})
	m.begin(t)
	if st := m.awaitExited(t, left); st.GetExitCode() != 7 || st.GetFinishedAt() != at.UnixNano() {
		t.Errorf("exit while nobody looked: %v", st)
	}
	if st := m.status(t, running).GetState(); st != v1.ContainerState_CONTAINER_RUNNING {
		t.Errorf("running: %v", st)
	}
	if st := m.status(t, created).GetState(); st != v1.ContainerState_CONTAINER_CREATED {
		t.Errorf("created: %v", st)
	}
	m.container(pod, running).exit(runtime.Exit{Code: 5, At: time.Now()})
	if st := m.awaitExited(t, running); st.GetExitCode() != 5 {
		t.Errorf("exit after restart: %v", st)
	}
	m.startContainer(t, created)
	if _, err := m.server.RemovePodSandbox(t.Context(), &v1.RemovePodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Fatal(err)
	}
}

// TestRestartAfterUnrecordedStart: the daemon ended between the start of a container
// and its record.
func TestRestartAfterUnrecordedStart(t *testing.T) {
	m := newMachine(t)
	pod := m.runPod(t, "p")
	id := m.createContainer(t, pod, "c")
	m.end(t)
	if err := m.container(pod, id).Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.begin(t)
	if st := m.status(t, id); st.GetState() != v1.ContainerState_CONTAINER_RUNNING || st.GetStartedAt() == 0 {
		t.Errorf("status: %v", st)
	}
}

func TestRestartUndoesIntents(t *testing.T) {
	m := newMachine(t)
	pod := m.runPod(t, "p")
	rec, err := m.store.Sandboxes.Get(pod)
	if err != nil {
		t.Fatal(err)
	}
	id := m.createContainer(t, pod, "c")
	if _, err := m.store.Containers.Update(id, func(c *store.Container) { c.MadeAt = time.Time{} }); err != nil {
		t.Fatal(err)
	}
	half := &store.Sandbox{ID: "feed", Boot: m.boot, Handler: "fake", Config: podConfig("half"), CreatedAt: rec.CreatedAt}
	if err := m.store.Sandboxes.Add(half); err != nil {
		t.Fatal(err)
	}
	m.hull.pods["feed"] = &fakePod{hull: m.hull, id: "feed"}
	m.hull.pods["stray"] = &fakePod{hull: m.hull, id: "stray"}
	m.restart(t)
	if len(m.hull.pods) != 1 || len(m.store.Sandboxes.List()) != 1 || len(m.store.Containers.List()) != 0 || m.container(pod, id) != nil {
		t.Errorf("left: pods %v", m.hull.pods)
	}
}

// TestFailedUndoIsMadeUpFor: what a creation left behind that had no record any more.
func TestFailedUndoIsMadeUpFor(t *testing.T) {
	m := newMachine(t)
	pod := m.runPod(t, "p")
	kept := m.createContainer(t, pod, "kept")
	m.hull.make = func(context.Context) error {
		p := m.hull.pods[pod]
		m.hull.mu.Lock()
		defer m.hull.mu.Unlock()
		p.containers["stray"] = &fakeContainer{pod: p, id: "stray"}
		m.hull.pods["stray"] = &fakePod{hull: m.hull, id: "stray"}
		return errdefs.ErrUnavailable
	}
	r := &v1.CreateContainerRequest{PodSandboxId: pod, Config: containerConfig("c"), SandboxConfig: podConfig("p")}
	if _, err := m.server.CreateContainer(t.Context(), r); codeOf(err) != codes.Unavailable {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		m.hull.mu.Lock()
		pods, containers := len(m.hull.pods), len(m.hull.pods[pod].containers)
		m.hull.mu.Unlock()
		if pods == 1 && containers == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d pods with %d containers are left", pods, containers)
		}
	}
	if m.container(pod, kept) == nil {
		t.Error("the wrong container was swept")
	}
}

func TestPace(t *testing.T) {
	var p pace
	for i, tt := range []struct {
		again bool
		want  time.Duration
	}{
		{false, reconcileInterval}, {true, reconcileSoon}, {true, 2 * reconcileSoon}, {true, 4 * reconcileSoon},
		{false, reconcileInterval}, {true, reconcileSoon},
	} {
		if got := p.next(tt.again); got != tt.want {
			t.Errorf("round %d: %v, want %v", i, got, tt.want)
		}
	}
	for range 20 {
		if got := p.next(true); got > reconcileInterval {
			t.Fatalf("%v", got)
		}
	}
}

func TestReboot(t *testing.T) {
	m := newMachine(t)
	pod := m.runPod(t, "p")
	done, running := m.createContainer(t, pod, "done"), m.createContainer(t, pod, "running")
	m.startContainer(t, done)
	m.startContainer(t, running)
	m.container(pod, done).exit(runtime.Exit{Code: 4, At: time.Now()})
	m.awaitExited(t, done)
	m.end(t)
	if err := os.RemoveAll(filepath.Join(m.dir, "state")); err != nil {
		t.Fatal(err)
	}
	m.hull.pods, m.boot = map[string]*fakePod{}, "boot-2"
	m.begin(t)
	st, err := m.server.PodSandboxStatus(t.Context(), &v1.PodSandboxStatusRequest{PodSandboxId: pod})
	if err != nil || st.GetStatus().GetState() != v1.PodSandboxState_SANDBOX_NOTREADY || len(st.GetContainersStatuses()) != 2 {
		t.Fatalf("sandbox of the last boot: %v %v", st, err)
	}
	if c := m.status(t, done); c.GetExitCode() != 4 || c.GetState() != v1.ContainerState_CONTAINER_EXITED {
		t.Errorf("done: %v", c)
	}
	if c := m.status(t, running); c.GetExitCode() != -1 || c.GetReason() != "Unknown" || c.GetState() != v1.ContainerState_CONTAINER_EXITED {
		t.Errorf("running: %v", c)
	}
	// Its addresses are free before anybody stops it.
	for began := time.Now(); ; time.Sleep(time.Millisecond) {
		if r, err := m.store.Sandboxes.Get(pod); err != nil || r.Released {
			break
		}
		if time.Since(began) > 5*time.Second {
			t.Fatal("the network of the last boot's sandbox is not given back")
		}
	}
	if _, err := m.server.RemovePodSandbox(t.Context(), &v1.RemovePodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Fatal(err)
	}
	m.restart(t)
	if n := len(m.server.listSandboxes(nil)); n != 0 {
		t.Errorf("%d sandboxes came back", n)
	}
}

func TestBrokenRecords(t *testing.T) {
	m := newMachine(t)
	pod := m.runPod(t, "p")
	id := m.createContainer(t, pod, "c")
	m.end(t)
	for _, f := range []string{"sandbox/" + pod, "container/" + id} {
		if err := os.WriteFile(filepath.Join(m.dir, "state", f+".json"), []byte(`{"version":1,"rec`), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	m.begin(t)
	if st := m.status(t, id); st.GetState() != v1.ContainerState_CONTAINER_UNKNOWN || st.GetMetadata().GetName() == "" {
		t.Errorf("container: %v", st)
	}
	if l := m.server.listSandboxes(nil); len(l) != 1 || l[0].GetState() != v1.PodSandboxState_SANDBOX_NOTREADY {
		t.Errorf("sandboxes: %v", l)
	}
	// Without these the kubelet and crictl refuse the answer, and remove nothing.
	if st := m.status(t, id); st.GetCreatedAt() == 0 || st.GetImage().GetImage() == "" || st.GetImageRef() == "" {
		t.Errorf("container lacks what clients require: %v", st)
	}
	st, err := m.server.PodSandboxStatus(t.Context(), &v1.PodSandboxStatusRequest{PodSandboxId: pod})
	if meta := st.GetStatus().GetMetadata(); err != nil || st.GetStatus().GetCreatedAt() == 0 || meta.GetNamespace() == "" || meta.GetUid() == "" {
		t.Errorf("sandbox lacks what clients require: %v %v", st, err)
	}
	if _, err := m.server.RemoveContainer(t.Context(), &v1.RemoveContainerRequest{ContainerId: id}); err != nil {
		t.Error(err)
	}
	if _, err := m.server.StopPodSandbox(t.Context(), &v1.StopPodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Error(err)
	}
	if _, err := m.server.RemovePodSandbox(t.Context(), &v1.RemovePodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Error(err)
	}
	if len(m.hull.pods) != 0 {
		t.Error("the sandbox behind the broken record is left")
	}
}

// TestStopWithoutDriver: a sandbox whose runtime handler is not configured any more is
// not called stopped while it runs.
func TestStopWithoutDriver(t *testing.T) {
	m := newMachine(t)
	pod := m.runPod(t, "p")
	id := m.createContainer(t, pod, "c")
	m.startContainer(t, id)
	if _, err := m.store.Sandboxes.Update(pod, func(r *store.Sandbox) { r.Handler = "gone" }); err != nil {
		t.Fatal(err)
	}
	m.restart(t)
	if _, err := m.server.StopContainer(t.Context(), &v1.StopContainerRequest{ContainerId: id}); codeOf(err) != codes.Unavailable {
		t.Errorf("stop of a container that nobody can talk to: %v", err)
	}
	if _, err := m.server.StopPodSandbox(t.Context(), &v1.StopPodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Fatal(err)
	}
	if len(m.hull.pods) != 0 {
		t.Error("the sandbox is left")
	}
	if st := m.status(t, id); st.GetState() != v1.ContainerState_CONTAINER_EXITED || st.GetReason() != "Unknown" {
		t.Errorf("container: %v", st)
	}
	if _, err := m.server.RemovePodSandbox(t.Context(), &v1.RemovePodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Error(err)
	}
}

// TestStopAdopts: a container that could not be adopted at the start is adopted when it
// is to be stopped, instead of being called stopped.
func TestStopAdopts(t *testing.T) {
	for name, stop := range map[string]func(m *machine, pod, id string) error{
		"stop": func(m *machine, _, id string) error {
			_, err := m.server.StopContainer(t.Context(), &v1.StopContainerRequest{ContainerId: id})
			return err
		},
		"remove": func(m *machine, _, id string) error {
			_, err := m.server.RemoveContainer(t.Context(), &v1.RemoveContainerRequest{ContainerId: id})
			return err
		},
		"stop pod": func(m *machine, pod, _ string) error {
			_, err := m.server.StopPodSandbox(t.Context(), &v1.StopPodSandboxRequest{PodSandboxId: pod})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			pod := m.runPod(t, "p")
			id := m.createContainer(t, pod, "c")
			m.startContainer(t, id)
			m.hull.find = func(context.Context) error { return errdefs.ErrUnavailable }
			m.restart(t)
			if err := stop(m, pod, id); codeOf(err) != codes.Unavailable {
				t.Errorf("while the hull does not answer: %v", err)
			}
			m.hull.find = func(context.Context) error { return nil }
			c := m.container(pod, id)
			if err := stop(m, pod, id); err != nil {
				t.Fatal(err)
			}
			if st, _ := c.State(t.Context()); st.Phase != runtime.Exited {
				t.Error("it runs on")
			}
		})
	}
}
