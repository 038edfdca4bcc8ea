package cri

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/cri/nri"
	"github.com/cricket-cri/cricket/cri/store"
	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/image"
	"github.com/cricket-cri/cricket/sandbox"
)

// hull is a driver in memory that outlives servers, as a machine does daemons. Its
// hooks run before the work; an error of one is the work's.
type hull struct {
	mu          sync.Mutex
	pods        map[string]*fakePod
	create      func(ctx context.Context) error
	make        func(ctx context.Context) error // NewContainer
	start, kill func(ctx context.Context) error
	ask         func(ctx context.Context) error // signals other than SIGKILL
	find        func(ctx context.Context) error // Container
	own         bool                            // pods are machines
	calls       []string
}

func newHull() *hull {
	nop := func(context.Context) error { return nil }
	return &hull{pods: map[string]*fakePod{}, create: nop, make: nop, start: nop, kill: nop, ask: nop, find: nop}
}

func (h *hull) note(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.calls = append(h.calls, fmt.Sprintf(format, args...))
}

func (h *hull) count(call string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for _, c := range h.calls {
		if c == call {
			n++
		}
	}
	return n
}

func (h *hull) Features() sandbox.Features {
	return sandbox.Features{UserNamespaces: true, RecursiveReadOnlyMounts: true, OwnKernel: h.own}
}

func (h *hull) Create(ctx context.Context, c sandbox.Config) (sandbox.Sandbox, error) {
	h.note("create")
	if err := h.create(ctx); err != nil {
		return nil, err
	}
	p := &fakePod{hull: h, id: c.ID, done: make(chan struct{}), containers: map[string]*fakeContainer{}}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pods[c.ID] = p
	return p, nil
}

func (h *hull) Attach(_ context.Context, r sandbox.Record) (sandbox.Sandbox, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if p := h.pods[r.ID]; p != nil {
		return p, nil
	}
	return &fakePod{hull: h, id: r.ID, stopped: true, done: make(chan struct{}), containers: map[string]*fakeContainer{}}, sandbox.ErrGone
}

func (h *hull) List(context.Context) ([]string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var ids []string
	for id := range h.pods {
		ids = append(ids, id)
	}
	return ids, nil
}

func (h *hull) Containers(context.Context) (map[string]string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	found := map[string]string{}
	for _, p := range h.pods {
		for id := range p.containers {
			found[id] = p.id
		}
	}
	return found, nil
}

func (h *hull) SweepContainer(_ context.Context, pod, id string) error {
	h.note("sweep container")
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.pods[pod].containers, id)
	return nil
}

func (h *hull) Sweep(_ context.Context, id string) error {
	h.note("sweep")
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.pods, id)
	return nil
}

type fakePod struct {
	hull       *hull
	id         string
	done       chan struct{}
	mu         sync.Mutex
	stopped    bool
	containers map[string]*fakeContainer
}

func (p *fakePod) Record() sandbox.Record {
	return sandbox.Record{ID: p.id, Data: json.RawMessage(`{}`)}
}

func (p *fakePod) Status() sandbox.Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	return sandbox.Status{Ready: !p.stopped, IPs: []netip.Addr{netip.MustParseAddr("10.0.0.7"), netip.MustParseAddr("fd00::7")}}
}

func (p *fakePod) NewContainer(ctx context.Context, c runtime.Config) (runtime.Container, error) {
	p.hull.note("new container")
	if err := adjusted(c, p.hull.make(ctx)); err != nil {
		return nil, err
	}
	fc := &fakeContainer{pod: p, id: c.ID, state: runtime.State{Phase: runtime.Created}, exited: make(chan struct{})}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.containers[c.ID] = fc
	return fc, nil
}

func (p *fakePod) Container(ctx context.Context, id string) (runtime.Container, error) {
	if err := p.hull.find(ctx); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.containers[id]; c != nil {
		return c, nil
	}
	return nil, errdefs.ErrNotFound
}

func (p *fakePod) Dial(context.Context, int) (net.Conn, error) { return nil, errdefs.ErrUnavailable }

func (p *fakePod) Update(context.Context, *runtime.Resources, *runtime.Resources) error { return nil }

func (p *fakePod) Stat(context.Context, *sandbox.Stat) error { return nil }

func (p *fakePod) Stop(context.Context) error {
	p.hull.note("stop")
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.stopped {
		p.stopped = true
		close(p.done)
	}
	if p.hull.own { // they go with the machine
		for _, c := range p.containers {
			c.exit(runtime.Exit{Code: -1, Unknown: true})
		}
	}
	return nil
}

func (p *fakePod) Remove(ctx context.Context) error { return p.hull.Sweep(ctx, p.id) }

func (p *fakePod) Done() <-chan struct{} { return p.done }

type fakeContainer struct {
	pod    *fakePod
	id     string
	mu     sync.Mutex
	state  runtime.State
	exited chan struct{}
	// stubborn containers only leave on SIGKILL.
	stubborn bool
}

func (c *fakeContainer) State(context.Context) (runtime.State, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state, nil
}

func (c *fakeContainer) Start(ctx context.Context) error {
	c.pod.hull.note("start")
	if err := c.pod.hull.start(ctx); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state = runtime.State{Phase: runtime.Running, Pid: 42, StartedAt: time.Now()}
	return nil
}

// exit ends the container.
func (c *fakeContainer) exit(e runtime.Exit) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state.Phase == runtime.Running {
		c.state.Phase, c.state.Exit = runtime.Exited, e
		close(c.exited)
	}
}

func (c *fakeContainer) Signal(ctx context.Context, sig unix.Signal) error {
	c.pod.hull.note("signal %d", sig)
	if sig == unix.SIGKILL {
		if err := c.pod.hull.kill(ctx); err != nil {
			return err
		}
	} else if err := c.pod.hull.ask(ctx); err != nil || c.stubborn {
		return err
	}
	c.exit(runtime.Exit{Code: 128 + int32(sig), At: time.Now()})
	return nil
}

func (c *fakeContainer) Wait(ctx context.Context) (runtime.Exit, error) {
	select {
	case <-c.exited:
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.state.Exit, nil
	case <-ctx.Done():
		return runtime.Exit{}, ctx.Err()
	}
}

func (c *fakeContainer) Exec(context.Context, runtime.ExecConfig) (runtime.Exit, error) {
	return runtime.Exit{}, nil
}
func (c *fakeContainer) Attach(context.Context, runtime.Streams) error            { return nil }
func (c *fakeContainer) Update(context.Context, *runtime.Resources) error         { return nil }
func (c *fakeContainer) Stat(context.Context, *runtime.Stat) error                { return nil }
func (c *fakeContainer) ReopenLog(context.Context) error                          { c.pod.hull.note("reopen"); return nil }
func (c *fakeContainer) DiskUsage(context.Context) (u runtime.DiskUsage, _ error) { return u, nil }

func (c *fakeContainer) Remove(context.Context) error {
	c.pod.mu.Lock()
	defer c.pod.mu.Unlock()
	delete(c.pod.containers, c.id)
	return nil
}

type noLayers struct{} // images without users

func (noLayers) ReadFiles(context.Context, []digest.Digest, ...string) (map[string][]byte, error) {
	return nil, nil
}

type network struct{ err error }

func (n network) Status(context.Context) error { return n.err }

// machine is where daemons come and go.
type machine struct {
	hull      *hull
	dir, boot string
	nri       *nri.Options // of plugins; nil for none
	server    *Server
	store     *store.Store
}

func newMachine(t *testing.T) *machine {
	m := &machine{hull: newHull(), dir: t.TempDir(), boot: "boot-1"}
	m.begin(t)
	t.Cleanup(func() { m.end(t) })
	return m
}

// begin starts a daemon.
func (m *machine) begin(t *testing.T) {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	var err error
	m.store, err = store.Open(store.Options{
		Dir: filepath.Join(m.dir, "state"), Journal: filepath.Join(m.dir, "journal"), Boot: m.boot, Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	busybox := image.Image{ID: "sha256:0123", RepoTags: []string{"busybox:1"}, RepoDigests: []string{"busybox@sha256:4567"}}
	m.server, err = New(Options{
		Drivers: map[string]sandbox.Driver{"fake": m.hull}, DefaultHandler: "fake",
		Images: &paperImages{images: []image.Image{busybox}}, Layers: noLayers{}, Network: network{},
		Store: m.store, Version: "test", Boot: m.boot, Log: log, NRI: m.nri,
	})
	if err != nil {
		t.Fatal(err)
	}
	m.server.Recover(t.Context())
}

// end stops the daemon; what it knows is on disk.
func (m *machine) end(t *testing.T) {
	t.Helper()
	if err := m.server.Close(context.Background()); err != nil {
		t.Error(err)
	}
	if err := m.store.Close(); err != nil {
		t.Error(err)
	}
}

func (m *machine) restart(t *testing.T) {
	t.Helper()
	m.end(t)
	m.begin(t)
}

func podConfig(name string) *v1.PodSandboxConfig {
	return &v1.PodSandboxConfig{
		Metadata: &v1.PodSandboxMetadata{Name: name, Namespace: "default", Uid: name + "-uid"},
		Labels:   map[string]string{"name": name},
	}
}

func containerConfig(name string) *v1.ContainerConfig {
	return &v1.ContainerConfig{
		Metadata: &v1.ContainerMetadata{Name: name},
		Image:    &v1.ImageSpec{Image: "busybox:1"},
		Command:  []string{"sleep", "1"},
		Labels:   map[string]string{"name": name},
	}
}

func (m *machine) runPod(t *testing.T, name string) string {
	t.Helper()
	r, err := m.server.RunPodSandbox(t.Context(), &v1.RunPodSandboxRequest{Config: podConfig(name)})
	if err != nil {
		t.Fatal(err)
	}
	return r.GetPodSandboxId()
}

func (m *machine) createContainer(t *testing.T, pod, name string) string {
	t.Helper()
	r, err := m.server.CreateContainer(t.Context(), &v1.CreateContainerRequest{PodSandboxId: pod, Config: containerConfig(name), SandboxConfig: podConfig("x")})
	if err != nil {
		t.Fatal(err)
	}
	return r.GetContainerId()
}

func (m *machine) startContainer(t *testing.T, id string) {
	t.Helper()
	if _, err := m.server.StartContainer(t.Context(), &v1.StartContainerRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
}

func (m *machine) container(pod, id string) *fakeContainer {
	m.hull.mu.Lock()
	defer m.hull.mu.Unlock()
	return m.hull.pods[pod].containers[id]
}

func (m *machine) status(t *testing.T, id string) *v1.ContainerStatus {
	t.Helper()
	r, err := m.server.ContainerStatus(t.Context(), &v1.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		t.Fatal(err)
	}
	return r.GetStatus()
}

// eventually waits for the exit of a container to be recorded.
func (m *machine) awaitExited(t *testing.T, id string) *v1.ContainerStatus {
	t.Helper()
	<-m.server.live.container(id).exited
	return m.status(t, id)
}
