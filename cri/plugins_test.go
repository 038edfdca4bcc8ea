package cri

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"
	"github.com/opencontainers/runtime-spec/specs-go"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/cri/nri"
	"github.com/cricket-cri/cricket/runtime"
)

func TestMain(m *testing.M) {
	nri.LogTo(slog.New(slog.DiscardHandler))
	os.Exit(m.Run())
}

// adjusted lets plugins change the specification of a container, unless there is an error.
func adjusted(c runtime.Config, err error) error {
	if err != nil || c.Adjust == nil {
		return err
	}
	return c.Adjust(&specs.Spec{Process: &specs.Process{User: c.User}})
}

// newPluggedMachine is a machine that plugins connect to.
func newPluggedMachine(t *testing.T) *machine {
	m := &machine{hull: newHull(), dir: t.TempDir(), boot: "boot-1"}
	m.nri = &nri.Options{
		Version: "test", Socket: filepath.Join(m.dir, "nri.sock"), PluginDir: m.dir + "/plugins", ConfigDir: m.dir,
		RegistrationTimeout: 5 * time.Second, RequestTimeout: 5 * time.Second, Log: slog.New(slog.DiscardHandler),
	}
	m.begin(t)
	t.Cleanup(func() { m.end(t) })
	if err := m.server.StartPlugins(); err != nil {
		t.Fatal(err)
	}
	return m
}

// witness is a plugin that notes what it is told.
type witness struct {
	refuse  error         // of creations; nil agrees
	release chan struct{} // what it is told at first is answered after it is closed; nil at once
	asked   chan struct{} // closed when it is told

	mu     sync.Mutex
	shown  string // ids of containers that it was told of at first
	events []string
	pod    *api.PodSandbox // as it is after an update
}

func (w *witness) note(what string, c *api.Container) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, what+" "+c.GetId())
}

func (w *witness) Synchronize(_ context.Context, _ []*api.PodSandbox, containers []*api.Container) ([]*api.ContainerUpdate, error) {
	for _, c := range containers {
		w.shown += c.GetId()
	}
	close(w.asked)
	if w.release != nil {
		<-w.release
	}
	return nil, nil
}

func (w *witness) PostUpdatePodSandbox(_ context.Context, pod *api.PodSandbox) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pod = pod
	return nil
}

func (w *witness) CreateContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
	w.note("create", c)
	return nil, nil, w.refuse
}

func (w *witness) StopContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) ([]*api.ContainerUpdate, error) {
	w.note("stop", c)
	return nil, nil
}

func (w *witness) RemoveContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	w.note("remove", c)
	return nil
}

// heard is what a witness was told, without the id of the container that it was told of first.
func (w *witness) heard() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := strings.Join(w.events, " ")
	if _, id, ok := strings.Cut(strings.Join(w.events[:min(1, len(w.events))], ""), " "); ok {
		all = strings.ReplaceAll(all, " "+id, "")
	}
	return all
}

// podOfNow is the pod as the plugin was last told.
func (w *witness) podOfNow() *api.PodSandbox {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pod
}

// connect connects a plugin that is asked in the order of index. It need not have been told
// of anything yet.
func (m *machine) connect(t *testing.T, index string, w *witness) {
	t.Helper()
	w.asked = make(chan struct{})
	s, err := stub.New(w, stub.WithPluginName("witness"), stub.WithPluginIdx(index), stub.WithSocketPath(m.nri.Socket), stub.WithOnClose(func() {}))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
}

// known returns when a plugin that has connected is told of all that happens.
func (m *machine) known(w *witness) {
	<-w.asked
	m.server.plugins.Hold()()
}

// TestRefusalIsTold: plugins that have agreed to a container learn that a later one has not.
func TestRefusalIsTold(t *testing.T) {
	m := newPluggedMachine(t)
	agrees, refuses := &witness{}, &witness{refuse: errors.New("not on this node")}
	m.connect(t, "10", agrees)
	m.connect(t, "20", refuses)
	m.known(agrees)
	m.known(refuses)
	pod := m.runPod(t, "p")
	_, err := m.server.CreateContainer(t.Context(), &v1.CreateContainerRequest{PodSandboxId: pod, Config: containerConfig("c"), SandboxConfig: podConfig("p")})
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "not on this node") {
		t.Errorf("error: %v", err)
	}
	for who, w := range map[string]*witness{"the one that agreed": agrees, "the one that refused": refuses} {
		if got := w.heard(); got != "create stop remove" {
			t.Errorf("%s was told %q", who, got)
		}
	}
}

// TestEndWhilePluginConnects: what happens while a plugin is told what there is, it is told
// afterwards.
func TestEndWhilePluginConnects(t *testing.T) {
	m := newPluggedMachine(t)
	pod := m.runPod(t, "p")
	id := m.createContainer(t, pod, "c")
	m.startContainer(t, id)
	w := &witness{release: make(chan struct{})}
	m.connect(t, "10", w)
	<-w.asked
	m.container(pod, id).exit(runtime.Exit{At: time.Now()})
	removed := make(chan error, 1)
	go func() {
		<-m.server.live.container(id).exited
		_, err := m.server.RemoveContainer(t.Context(), &v1.RemoveContainerRequest{ContainerId: id})
		removed <- err
	}()
	for deadline := time.Now().Add(3 * time.Second); len(m.store.Containers.List()) > 0 && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	time.Sleep(200 * time.Millisecond) // of a notice that does not wait
	close(w.release)
	if err := <-removed; err != nil {
		t.Error(err)
	}
	if got := w.heard(); !strings.Contains(w.shown, id) || got != "stop remove" {
		t.Errorf("it was shown %q and then told %q", w.shown, got)
	}
}

// TestSlowPodWhilePluginConnects: a plugin that connects while a pod is being made waits for
// nothing of it, and nobody else does.
func TestSlowPodWhilePluginConnects(t *testing.T) {
	m := newPluggedMachine(t)
	pod := m.runPod(t, "p")
	id := m.createContainer(t, pod, "c")
	slow, begun := make(chan struct{}), make(chan struct{})
	var first atomic.Bool
	m.hull.create = func(context.Context) error {
		if first.CompareAndSwap(false, true) {
			close(begun)
			<-slow
		}
		return nil
	}
	made := make(chan error, 1)
	go func() {
		_, err := m.server.RunPodSandbox(t.Context(), &v1.RunPodSandboxRequest{Config: podConfig("slow")})
		made <- err
	}()
	<-begun
	w := &witness{}
	m.connect(t, "10", w)
	time.Sleep(200 * time.Millisecond) // until it would wait
	others := make(chan struct{})
	go func() {
		defer close(others)
		m.startContainer(t, id)
		m.container(pod, id).exit(runtime.Exit{At: time.Now()})
		m.runPod(t, "other")
	}()
	select {
	case <-others:
	case <-time.After(5 * time.Second):
		t.Error("others wait for the slow pod")
	}
	close(slow)
	if err := <-made; err != nil {
		t.Error(err)
	}
	<-others
	m.known(w)
}

// TestEvictionWhilePluginConnects: who holds plugins off does not wait for who waits for them.
func TestEvictionWhilePluginConnects(t *testing.T) {
	m := newPluggedMachine(t)
	pod := m.runPod(t, "p")
	id := m.createContainer(t, pod, "c")
	m.startContainer(t, id)
	release := m.server.plugins.Hold() // as a creation does
	w := &witness{}
	m.connect(t, "10", w)
	time.Sleep(200 * time.Millisecond) // until it waits
	evicted := make(chan error, 1)
	go func() { evicted <- view{m.server}.Evict(t.Context(), id, "test") }()
	select {
	case err := <-evicted:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Error("it waits for the plugin")
	}
	release()
	m.known(w)
	if _, err := m.server.RemoveContainer(t.Context(), &v1.RemoveContainerRequest{ContainerId: id}); err != nil {
		t.Error(err)
	}
	if got := w.heard(); !strings.HasSuffix(got, "remove") {
		t.Errorf("it was told %q", got)
	}
}
