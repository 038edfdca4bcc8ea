package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"
)

// nriPlugin is an NRI plugin in the test's process. It notes all that it is told.
type nriPlugin struct {
	// created adjusts containers; nil leaves them.
	created func(*api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error)
	// updated changes updates; nil leaves them.
	updated func(*api.Container, *api.LinuxResources) []*api.ContainerUpdate
	// starts and runs say what the plugin thinks of that; nil agrees.
	starts func(*api.Container) error
	runs   func(*api.PodSandbox) error

	stub         stub.Stub
	synchronized chan struct{}
	closed       chan struct{}

	mu     sync.Mutex
	events []string // WHAT and the id of its pod or container
	found  []string // ids that it was told of at first
}

func (p *nriPlugin) note(what, id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.events = append(p.events, what+" "+id)
}

// about lists what the plugin was told of one pod or container.
func (p *nriPlugin) about(id string) (all []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range p.events {
		var what, of string
		if _, err := fmt.Sscan(e, &what, &of); err == nil && of == id {
			all = append(all, what)
		}
	}
	return all
}

func (p *nriPlugin) Synchronize(_ context.Context, pods []*api.PodSandbox, containers []*api.Container) ([]*api.ContainerUpdate, error) {
	for _, pod := range pods {
		p.found = append(p.found, pod.GetId())
	}
	for _, c := range containers {
		p.found = append(p.found, c.GetId())
	}
	close(p.synchronized)
	return nil, nil
}

func (p *nriPlugin) RunPodSandbox(_ context.Context, pod *api.PodSandbox) error {
	p.note("run", pod.GetId())
	if p.runs != nil {
		return p.runs(pod)
	}
	return nil
}

func (p *nriPlugin) UpdatePodSandbox(_ context.Context, pod *api.PodSandbox, _, _ *api.LinuxResources) error {
	p.note("update", pod.GetId())
	return nil
}

func (p *nriPlugin) PostUpdatePodSandbox(_ context.Context, pod *api.PodSandbox) error {
	p.note("updated", pod.GetId())
	return nil
}

func (p *nriPlugin) StopPodSandbox(_ context.Context, pod *api.PodSandbox) error {
	p.note("stop", pod.GetId())
	return nil
}

func (p *nriPlugin) RemovePodSandbox(_ context.Context, pod *api.PodSandbox) error {
	p.note("remove", pod.GetId())
	return nil
}

func (p *nriPlugin) CreateContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
	p.note("create", c.GetId())
	if p.created == nil {
		return nil, nil, nil
	}
	return p.created(c)
}

func (p *nriPlugin) PostCreateContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	p.note("created", c.GetId())
	return nil
}

func (p *nriPlugin) StartContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	p.note("start", c.GetId())
	if p.starts != nil {
		return p.starts(c)
	}
	return nil
}

func (p *nriPlugin) PostStartContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	if c.GetPid() == 0 && !InVMs() {
		return errors.New("a container that runs has no process")
	}
	p.note("started", c.GetId())
	return nil
}

func (p *nriPlugin) UpdateContainer(_ context.Context, _ *api.PodSandbox, c *api.Container, r *api.LinuxResources) ([]*api.ContainerUpdate, error) {
	p.note("update", c.GetId())
	if p.updated == nil {
		return nil, nil
	}
	return p.updated(c, r), nil
}

func (p *nriPlugin) PostUpdateContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	p.note("updated", c.GetId())
	return nil
}

func (p *nriPlugin) StopContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) ([]*api.ContainerUpdate, error) {
	p.note("stop", c.GetId())
	return nil, nil
}

func (p *nriPlugin) RemoveContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	p.note("remove", c.GetId())
	return nil
}

// connect connects the plugin and waits until it is told of what happens.
func (p *nriPlugin) connect(t *testing.T, n *Node, socket string) {
	t.Helper()
	p.synchronized, p.closed = make(chan struct{}), make(chan struct{})
	var err error
	p.stub, err = stub.New(p, stub.WithPluginName("test"), stub.WithPluginIdx("10"), stub.WithSocketPath(socket),
		stub.WithOnClose(sync.OnceFunc(func() { close(p.closed) })))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.stub.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.stub.Stop)
	select {
	case <-p.synchronized:
	case <-time.After(30 * time.Second):
		t.Fatal("the plugin is not told of what there is")
	}
	// It is registered a moment later. Any pod will do.
	if n.virtual {
		plain := *n
		plain.virtual = false
		n = plain.For(t)
	}
	Within(t, 30*time.Second, "the plugin is told of a pod", func() bool {
		pod := n.RunPod(n.PodConfig())
		n.removePod(t, pod)
		return len(p.about(pod)) > 0
	})
}

// nriConfig is the daemon's configuration with a socket and plugins of its own.
func nriConfig(t *testing.T, more string) (file, socket, plugins string) {
	t.Helper()
	dir := t.TempDir()
	file, socket, plugins = filepath.Join(dir, "config.toml"), filepath.Join(dir, "nri.sock"), filepath.Join(dir, "plugins")
	if err := os.Mkdir(plugins, 0o755); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("[nri]\nsocket = %q\nplugin_dir = %q\nplugin_config_dir = %q\n%s", socket, plugins, dir, more)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return file, socket, plugins
}

// launchedPlugin adds what its configuration says to the environment of containers.
type launchedPlugin struct{ entry string }

func (p *launchedPlugin) Configure(_ context.Context, config, _, _ string) (stub.EventMask, error) {
	p.entry = config
	return 0, nil
}

func (p *launchedPlugin) CreateContainer(context.Context, *api.PodSandbox, *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
	a := &api.ContainerAdjustment{}
	a.AddEnv("CONFIGURED", p.entry)
	return a, nil, nil
}

// runAsPlugin makes the test's program the plugin that a daemon has started; false if none
// has.
func runAsPlugin() bool {
	if os.Getenv(api.PluginSocketEnvVar) == "" {
		return false
	}
	s, err := stub.New(&launchedPlugin{})
	if err == nil {
		err = s.Run(context.Background())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "NRI plugin:", err)
	}
	return true
}

// inOrder fails the test unless the plugin was told all this of a thing, and nothing else.
func (p *nriPlugin) inOrder(t *testing.T, id string, want ...string) {
	t.Helper()
	if got := p.about(id); !slices.Equal(got, want) {
		t.Errorf("the plugin was told %v, want %v", got, want)
	}
}
