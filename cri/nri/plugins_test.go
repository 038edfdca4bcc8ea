package nri

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"
)

// fake is a runtime with one pod and one container.
type fake struct {
	mu      sync.Mutex
	updated map[string]*api.LinuxResources
	evicted []string
	failing string // the container whose updates fail
}

func (f *fake) Snapshot() ([]*api.PodSandbox, []*api.Container) {
	return []*api.PodSandbox{{Id: "p"}}, []*api.Container{{Id: "c", PodSandboxId: "p"}}
}

func (f *fake) Update(_ context.Context, id string, r *api.LinuxResources) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if id == f.failing {
		return errdefs.ErrFailedPrecondition
	}
	f.updated[id] = r
	return nil
}

func (f *fake) Evict(_ context.Context, id, _ string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.evicted = append(f.evicted, id)
	return nil
}

func TestMain(m *testing.M) {
	LogTo(slog.New(slog.DiscardHandler))
	os.Exit(m.Run())
}

// open serves plugins of f on a socket of its own.
func open(t *testing.T, f *fake, requests time.Duration) (*Plugins, string) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "nri.sock")
	p, err := Open(Options{
		Version: "test", Socket: socket, PluginDir: t.TempDir(), ConfigDir: t.TempDir(),
		RegistrationTimeout: 5 * time.Second, RequestTimeout: requests, Log: slog.New(slog.DiscardHandler),
	}, f)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	return p, socket
}

// plugin notes what it is told.
type plugin struct {
	synchronized chan struct{}
	closed       chan struct{}
	create       func(context.Context, *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error)

	mu     sync.Mutex
	events []string
}

func (p *plugin) note(event string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.events = append(p.events, event)
}

func (p *plugin) Synchronize(_ context.Context, pods []*api.PodSandbox, containers []*api.Container) ([]*api.ContainerUpdate, error) {
	p.note("synchronize " + pods[0].GetId() + " " + containers[0].GetId())
	close(p.synchronized)
	return nil, nil
}

func (p *plugin) RunPodSandbox(_ context.Context, pod *api.PodSandbox) error {
	p.note("run " + pod.GetId())
	if pod.GetId() == "unwanted" {
		return errors.New("no such pods here")
	}
	return nil
}

func (p *plugin) StopPodSandbox(_ context.Context, pod *api.PodSandbox) error {
	p.note("stop " + pod.GetId())
	return nil
}

func (p *plugin) RemovePodSandbox(_ context.Context, pod *api.PodSandbox) error {
	p.note("remove " + pod.GetId())
	return nil
}

func (p *plugin) CreateContainer(ctx context.Context, _ *api.PodSandbox, c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
	p.note("create " + c.GetId())
	return p.create(ctx, c)
}

// connect connects a plugin and waits until it is there.
func connect(t *testing.T, socket string, p *plugin) stub.Stub {
	t.Helper()
	p.synchronized, p.closed = make(chan struct{}), make(chan struct{})
	s, err := stub.New(p, stub.WithPluginName("test"), stub.WithPluginIdx("10"), stub.WithSocketPath(socket),
		stub.WithOnClose(sync.OnceFunc(func() { close(p.closed) })))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	<-p.synchronized
	return s
}

// await waits until a request reaches the plugin: it is registered a moment after it was
// synchronized.
func await(t *testing.T, p *Plugins, other *plugin) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if err := p.RunPod(t.Context(), &api.PodSandbox{Id: "first"}); err != nil {
			t.Fatal(err)
		}
		other.mu.Lock()
		n := len(other.events)
		other.mu.Unlock()
		if n > 1 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the plugin is told nothing")
		}
	}
}

func TestPlugin(t *testing.T) {
	f := &fake{updated: map[string]*api.LinuxResources{}, failing: "stuck"}
	p, socket := open(t, f, 5*time.Second)
	q := &plugin{create: func(_ context.Context, c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
		a := &api.ContainerAdjustment{}
		a.AddEnv("A", c.GetName())
		u := &api.ContainerUpdate{}
		u.SetContainerId("c")
		u.SetLinuxCPUShares(77)
		return a, []*api.ContainerUpdate{u}, nil
	}}
	s := connect(t, socket, q)
	await(t, p, q)

	a, err := p.Create(t.Context(), &api.PodSandbox{Id: "p"}, &api.Container{Id: "d", Name: "it"})
	if err != nil || a.GetEnv()[0].GetValue() != "it" {
		t.Errorf("adjustment %v, %v", a, err)
	}
	if got := f.updated["c"].GetCpu().GetShares().GetValue(); got != 77 {
		t.Errorf("the other container has %d shares", got)
	}
	err = p.RunPod(t.Context(), &api.PodSandbox{Id: "unwanted"})
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "no such pods here") {
		t.Errorf("a pod that a plugin refuses: %v", err)
	}
	q.mu.Lock()
	if got := strings.Join(q.events[len(q.events)-4:], ", "); got != "create d, run unwanted, stop unwanted, remove unwanted" {
		t.Errorf("events: %s", got)
	}
	q.mu.Unlock()

	updates := []*api.ContainerUpdate{{ContainerId: "stuck"}, {ContainerId: "c"}}
	updates[1].SetLinuxMemoryLimit(1 << 20)
	failed, err := s.UpdateContainers(updates)
	if err == nil && (len(failed) != 1 || failed[0].GetContainerId() != "stuck") {
		t.Errorf("failed: %v", failed)
	}
	if got := f.updated["c"].GetMemory().GetLimit().GetValue(); got != 1<<20 {
		t.Errorf("an update that nobody asked for: limit %d", got)
	}
}

// TestHangingPlugin: it is dropped when its time is over, and the container goes on.
func TestHangingPlugin(t *testing.T) {
	p, socket := open(t, &fake{}, 300*time.Millisecond)
	release := make(chan struct{})
	defer close(release)
	q := &plugin{create: func(context.Context, *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
		<-release
		return nil, nil, nil
	}}
	connect(t, socket, q)
	await(t, p, q)
	began := time.Now()
	a, err := p.Create(t.Context(), &api.PodSandbox{Id: "p"}, &api.Container{Id: "d"})
	if err != nil || len(a.GetEnv()) > 0 {
		t.Errorf("beside a plugin that hangs: %v, %v", a, err)
	}
	if took := time.Since(began); took < 300*time.Millisecond || took > 5*time.Second {
		t.Errorf("that took %s", took)
	}
	select {
	case <-q.closed:
	case <-time.After(5 * time.Second):
		t.Error("the plugin is still connected")
	}
	began = time.Now()
	if _, err := p.Create(t.Context(), &api.PodSandbox{Id: "p"}, &api.Container{Id: "e"}); err != nil || time.Since(began) > 250*time.Millisecond {
		t.Errorf("after it was dropped: %v after %s", err, time.Since(began))
	}
}

func TestPluginThatDies(t *testing.T) {
	p, socket := open(t, &fake{}, 5*time.Second)
	q := &plugin{}
	s := connect(t, socket, q)
	q.create = func(context.Context, *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
		go s.Stop()
		<-q.closed
		return nil, nil, errors.New("gone")
	}
	await(t, p, q)
	for range 2 {
		if _, err := p.Create(t.Context(), &api.PodSandbox{Id: "p"}, &api.Container{Id: "d"}); err != nil {
			t.Errorf("beside a plugin that dies: %v", err)
		}
	}
}

// TestSocketOfOthers: a socket that somebody serves is not taken away from them.
func TestSocketOfOthers(t *testing.T) {
	f := &fake{updated: map[string]*api.LinuxResources{}}
	first, socket := open(t, f, time.Second)
	second, err := Open(Options{Socket: socket, PluginDir: t.TempDir(), ConfigDir: t.TempDir(), RegistrationTimeout: time.Second, RequestTimeout: time.Second, Log: slog.New(slog.DiscardHandler)}, f)
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Start(); err != nil {
		t.Fatal(err)
	}
	defer second.Stop()
	q := &plugin{}
	connect(t, socket, q)
	await(t, first, q)
}

func TestSwitchedOff(t *testing.T) {
	var p *Plugins
	if err := p.Start(); err != nil {
		t.Error(err)
	}
	p.Hold()()
	if a, err := p.Create(t.Context(), nil, nil); a != nil || err != nil {
		t.Errorf("%v %v", a, err)
	}
	limits := &api.LinuxResources{}
	if got, err := p.Update(t.Context(), nil, nil, limits); got != limits || err != nil {
		t.Errorf("%v %v", got, err)
	}
	p.Stop()
}
