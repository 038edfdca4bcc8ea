package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/cricket-cri/cricket/test/harness"
	"github.com/cricket-cri/cricket/test/images"
)

// Options of Start.
type Options struct {
	// Logs is the directory for the programs' logs; it need not exist.
	Logs string
	// Say is told of every step that is done, with the time since the start.
	Say func(string, ...any)
	// Kubelet has fields of the kubelet's configuration, as YAML, besides the cluster's own.
	Kubelet string
}

// Cluster is a cluster that runs. Methods that start its programs again are for one
// goroutine, while nobody else uses it; everything else is safe for concurrent use.
type Cluster struct {
	// Runtime is the node's container runtime, Kubelet its agent.
	Runtime *harness.Daemon
	Kubelet *harness.Process
	// Registry stands for every registry. Images are those of tests' workloads.
	Registry *images.Registry
	Images   *images.Set
	// Kubeconfig is the path of the administrator's.
	Kubeconfig string
	Config     *rest.Config
	Client     kubernetes.Interface

	built   built
	options Options
	dir     string
	pki     *pki
	server  *http.Server
	control []*harness.Process // in the order of their start
	boot    harness.Boot       // the node before anything was started in it
}

// step of a start.
type step struct {
	name string
	run  func(context.Context) error
}

// Start starts a cluster inside a private node and returns when pods can be made: the
// node is ready, the name server answers, there are service accounts. What has started
// runs on after an error, until Close.
func Start(ctx context.Context, o Options) (*Cluster, error) {
	made, err := prepared()
	if err != nil {
		return nil, err
	}
	c := &Cluster{built: made, options: o, dir: filepath.Join(harness.Dir(), "cluster")}
	c.Kubeconfig = filepath.Join(c.dir, "admin.kubeconfig")
	return c, c.do(ctx, append([]step{
		{"the node has a network", c.makeNode},
		{"the registry serves", c.startRegistry},
		{"certificates are made", c.makeCertificates},
	}, c.bootSteps()...))
}

func (c *Cluster) do(ctx context.Context, steps []step) error {
	began := time.Now()
	for _, s := range steps {
		if err := s.run(ctx); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		c.options.Say("%6.1fs  %s", time.Since(began).Seconds(), s.name)
	}
	return nil
}

// bootSteps are what every boot of the node does.
func (c *Cluster) bootSteps() []step {
	return []step{
		{"the runtime answers", c.startRuntime},
		{"etcd answers", c.startEtcd},
		{"the API server is ready", c.startAPIServer},
		{"controllers and scheduler are started", c.startControllers},
		{"kubelet and kube-proxy are started", c.startNode},
		{"the node is ready", c.nodeReady},
		{"the service account is there", c.accountMade},
		{"the name server is ready", c.startDNS},
	}
}

// Close ends the cluster's programs, the runtime last. Pods run on, until the private
// node ends.
func (c *Cluster) Close() error {
	errs := []error{c.stop()}
	if c.server != nil {
		errs = append(errs, c.server.Close())
	}
	return errors.Join(errs...)
}

// stop ends the programs that bootSteps start.
func (c *Cluster) stop() error {
	var errs []error
	if c.Kubelet != nil {
		errs = append(errs, c.Kubelet.Stop())
	}
	// Asked politely, the API server waits a minute for those who watch it.
	for i := len(c.control) - 1; i >= 0; i-- {
		errs = append(errs, c.control[i].Kill())
	}
	if c.Runtime != nil {
		errs = append(errs, c.Runtime.Stop())
	}
	return errors.Join(errs...)
}

func (c *Cluster) makeNode(context.Context) error {
	for _, dir := range []string{c.dir, c.options.Logs} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := harness.PrivateState(); err != nil {
		return err
	}
	if err := network(); err != nil {
		return err
	}
	var err error
	c.boot, err = harness.ObserveBoot()
	return err
}

func (c *Cluster) startRegistry(context.Context) error {
	var sets []*images.Set
	for _, dir := range slices.Concat(c.built.First, c.built.Images) {
		set, err := images.Open(dir)
		if err != nil {
			return err
		}
		sets = append(sets, set)
	}
	c.Registry, c.Images = images.NewRegistry(sets...), sets[len(c.built.First)]
	var err error
	c.server, _, err = c.Registry.Serve(registryAddress)
	return err
}

// registryAddress is the registry's in the private node.
const registryAddress = "127.0.0.1:5000"

func (c *Cluster) startRuntime(ctx context.Context) error {
	paths, err := harness.MakePaths(filepath.Join(harness.Dir(), "run"), registryAddress)
	if err != nil {
		return err
	}
	paths.Log = c.log(c.built.Runtime)
	start := harness.Cricketd(c.built.Cricketd)
	if c.built.Runtime == Containerd {
		start = harness.Containerd(c.built.PeerBin, c.built.Runc)
	}
	c.Runtime = harness.NewDaemon(paths, start)
	return c.Runtime.Start(ctx)
}

func (c *Cluster) log(name string) string { return filepath.Join(c.options.Logs, name+".log") }

// start starts a program of the cluster with the given arguments.
func (c *Cluster) start(name string, args ...string) (*harness.Process, error) {
	p := &harness.Process{Name: name, Log: c.log(name), Command: func() (*exec.Cmd, error) {
		return exec.Command(c.built.Programs[name], args...), nil
	}}
	return p, p.Start()
}

func (c *Cluster) startControl(name string, args ...string) error {
	p, err := c.start(name, args...)
	c.control = append(c.control, p)
	return err
}

// client makes the administrator's client.
func (c *Cluster) client() (err error) {
	if c.Config, err = clientcmd.BuildConfigFromFlags("", c.Kubeconfig); err != nil {
		return err
	}
	c.Config.QPS, c.Config.Burst = 200, 400
	c.Client, err = kubernetes.NewForConfig(c.Config)
	return err
}

// alive is an error if one of the cluster's programs has ended.
func (c *Cluster) alive() error {
	for _, p := range c.control {
		if err := p.Alive(); err != nil {
			return err
		}
	}
	if c.Kubelet != nil {
		return c.Kubelet.Alive()
	}
	return nil
}

// until is harness.Until, which ends at once when a program of the cluster has ended.
func (c *Cluster) until(ctx context.Context, limit time.Duration, check func(context.Context) error) error {
	return harness.Until(ctx, limit, func(ctx context.Context) error {
		err := check(ctx)
		if err == nil {
			return nil
		}
		if dead := c.alive(); dead != nil {
			return harness.Final(dead)
		}
		return err
	})
}
