package diff

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"

	"google.golang.org/grpc"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/test/harness"
	"github.com/cricket-cri/cricket/test/images"
)

// The names of endpoints: the peer, and Cricket's two hulls.
const (
	peerName   = "containerd"
	kernelName = "kernel"
	vmName     = "vm"
)

// endpoint is a runtime under comparison. It is safe for concurrent use.
type endpoint struct {
	name    string
	handler string // of pods
	runtime cri.RuntimeServiceClient
	store   cri.ImageServiceClient
	daemon  *harness.Daemon
	conn    *grpc.ClientConn
}

// endpoints are the runtimes, each started when it is first asked for, and what the peer
// has shown already.
type endpoints struct {
	ctx      context.Context
	server   *http.Server
	registry string // its address
	images   *images.Registry
	set      *images.Set
	machines int // that wait for pods, where pods are virtual machines

	mu       sync.Mutex
	started  map[string]*endpoint
	observed map[string]func() observation // the peer's, by the case's name
}

func newEndpoints(ctx context.Context) (*endpoints, error) {
	set, err := images.Open(os.Getenv(imagesEnv))
	if err != nil {
		return nil, err
	}
	registry := images.NewRegistry(set)
	if err := addImages(registry, set); err != nil {
		return nil, err
	}
	server, address, err := registry.Serve("127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	return &endpoints{
		ctx: ctx, server: server, registry: address, images: registry, set: set, machines: together,
		started: map[string]*endpoint{}, observed: map[string]func() observation{},
	}, nil
}

// get returns the endpoint of that name, ready and with the images pulled.
func (w *endpoints) get(name string) (*endpoint, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if e := w.started[name]; e != nil {
		return e, nil
	}
	paths, err := harness.MakePaths(filepath.Join(harness.Dir(), name), w.registry)
	if err != nil {
		return nil, err
	}
	e := &endpoint{name: name}
	starter := harness.Containerd(os.Getenv(containerdEnv), os.Getenv(runcEnv))
	if name != peerName {
		config := filepath.Join(paths.Dir, "config.toml")
		// Without a guest's image no machine is made, which would only take time from others.
		pool, guest := 0, filepath.Join(paths.Dir, "no-guest")
		if name == vmName {
			pool, guest, e.handler = w.machines, os.Getenv(guestEnv), "vm"
		}
		text := fmt.Sprintf("[vm]\nimage = %q\npool = %d\n", guest, pool)
		if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
			return nil, err
		}
		starter = harness.Cricketd(filepath.Join(os.Getenv(binEnv), "cricketd"), "--config", config)
	}
	e.daemon = harness.NewDaemon(paths, starter)
	if err := e.start(w.ctx); err != nil {
		log, _ := os.ReadFile(paths.Log)
		return nil, fmt.Errorf("%s: %w\n%s", name, err, log[max(0, len(log)-8000):])
	}
	w.started[name] = e
	return e, nil
}

func (e *endpoint) start(ctx context.Context) (err error) {
	if err := e.daemon.Start(ctx); err != nil {
		return err
	}
	if e.conn, err = e.daemon.Dial(); err != nil {
		return err
	}
	e.runtime = cri.NewRuntimeServiceClient(e.conn)
	e.store = cri.NewImageServiceClient(e.conn)
	for _, name := range imageNames() {
		if _, err := e.store.PullImage(ctx, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: name}}); err != nil {
			return fmt.Errorf("pull %s: %w", name, err)
		}
	}
	return nil
}

// end ends all runtimes; what ran in them ends with the node.
func (w *endpoints) end() error {
	err := w.server.Close()
	for _, e := range w.started {
		e.conn.Close()
		err = errors.Join(err, e.daemon.Stop())
		if pid, ok := e.daemon.Paths.MonitorPid(); ok == nil {
			unix.Kill(pid, unix.SIGKILL)
		}
	}
	return err
}

// peer is what the peer shows of a case to look, which is called once.
func (w *endpoints) peer(name string, look func(context.Context, *endpoint) observation) observation {
	w.mu.Lock()
	f := w.observed[name]
	if f == nil {
		f = sync.OnceValue(func() observation {
			e, err := w.get(peerName)
			if err != nil {
				return observation{broken: err.Error()}
			}
			return look(w.ctx, e)
		})
		w.observed[name] = f
	}
	w.mu.Unlock()
	return f()
}
