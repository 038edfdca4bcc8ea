package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/spec"
	"github.com/cricket-cri/cricket/sandbox/netns"
)

// pod is a sandbox of the shared-kernel driver.
type pod struct {
	driver *Kernel
	state  podState // never changed after Create or Attach
	done   chan struct{}
	init   *process // nil if the pod needs none
	// watch owns the goroutine that waits for init.
	watch sync.WaitGroup

	mu      sync.Mutex
	stopped bool
	ended   bool // done is closed
}

// podState is what lies in the record and in the pod's directory.
type podState struct {
	Config Config `json:"config"`
	// Boot is the kernel's boot that the pod was made in.
	Boot string       `json:"boot"`
	IPs  []netip.Addr `json:"ips,omitempty"`
	// InitPid and InitStart are the process that keeps the PID namespace.
	InitPid   int    `json:"initPid,omitempty"`
	InitStart uint64 `json:"initStart,omitempty"`
}

// The names of files in a pod's directory.
const (
	stateFile     = "state.json"
	resolvFile    = "resolv.conf"
	hostsFile     = "hosts"
	hostnameFile  = "hostname"
	shmDir        = "shm"
	containersDir = "containers"
)

func (k *Kernel) newPod(s podState) *pod {
	return &pod{driver: k, state: s, done: make(chan struct{})}
}

func (p *pod) id() string { return p.state.Config.ID }

func (p *pod) dir(elem ...string) string {
	return p.driver.path(append([]string{"sandboxes", p.id()}, elem...)...)
}

func (p *pod) namespaces() netns.Dir { return netns.Dir(p.driver.path("ns", p.id())) }

// parent is the cgroup parent of the pod's containers, in the form of the cgroup driver.
func (p *pod) parent() string {
	if own := p.state.Config.CgroupParent; own != "" {
		return own
	}
	return p.driver.naming.Own(p.id())
}

// cgroupPath is where parent lies; Create has checked that it is valid.
func (p *pod) cgroupPath() string {
	path, _ := p.driver.naming.Path(p.parent())
	return path
}

// ownTypes are the namespaces that the pod has for itself and a thread can make.
func (c *Config) ownTypes() []specs.LinuxNamespaceType {
	var types []specs.LinuxNamespaceType
	if c.Network == runtime.NamespacePod {
		// A pod on the host's network has the host's name, too.
		types = append(types, specs.NetworkNamespace, specs.UTSNamespace)
	}
	if c.IPC == runtime.NamespacePod {
		types = append(types, specs.IPCNamespace)
	}
	return types
}

// heldTypes are the namespaces that only a process can make.
func (c *Config) heldTypes() []specs.LinuxNamespaceType {
	var types []specs.LinuxNamespaceType
	if c.UserNS != nil {
		types = append(types, specs.UserNamespace)
	}
	if c.PID == runtime.NamespacePod {
		types = append(types, specs.PIDNamespace)
	}
	return types
}

// root is the host's ids of the pod's root user.
func (c *Config) root() (uid, gid int) {
	if c.UserNS == nil {
		return 0, 0
	}
	return hostID(c.UserNS.UIDs), hostID(c.UserNS.GIDs)
}

func hostID(mappings []specs.LinuxIDMapping) int {
	for _, m := range mappings {
		if m.ContainerID == 0 && m.Size > 0 {
			return int(m.HostID)
		}
	}
	return 0
}

// Record is what Attach needs to find the sandbox again.
func (p *pod) Record() Record {
	data, err := json.Marshal(p.state)
	if err != nil { // plain data: cannot happen
		data = nil
	}
	return Record{ID: p.id(), Data: data}
}

func (p *pod) writeState() error {
	return writeFile(p.dir(stateFile), p.Record().Data, 0o600)
}

// writeFile replaces a file as a whole. It does not sync: what it describes dies with
// the kernel.
func writeFile(path string, content []byte, mode os.FileMode) error {
	half := path + ".new"
	if err := os.WriteFile(half, content, mode); err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	if err := os.Rename(half, path); err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	return nil
}

// Status is what the sandbox says of itself.
func (p *pod) Status() Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := Status{Ready: !p.ended, IPs: p.state.IPs, CgroupPath: p.cgroupPath()}
	if p.state.Config.Network == runtime.NamespacePod && !p.stopped {
		s.NetNS = p.namespaces().Path(specs.NetworkNamespace)
	}
	return s
}

// Done is closed when the sandbox is no longer ready.
func (p *pod) Done() <-chan struct{} { return p.done }

// end closes done, once.
func (p *pod) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.ended {
		p.ended = true
		close(p.done)
	}
}

// Dial connects to a TCP port on the loopback interface of the pod, with IPv4 first.
func (p *pod) Dial(ctx context.Context, port int) (conn net.Conn, err error) {
	if port <= 0 || port > 65535 {
		return nil, fmt.Errorf("dial port %d: %w", port, errdefs.ErrInvalidArgument)
	}
	dial := func() error {
		var d net.Dialer
		var first error
		for _, host := range []string{"127.0.0.1", "::1"} {
			if conn, err = d.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port))); err == nil {
				return nil
			}
			first = errors.Join(first, err)
		}
		return fmt.Errorf("dial port %d of the pod: %w: %w", port, errdefs.ErrUnavailable, first)
	}
	if p.state.Config.Network != runtime.NamespacePod {
		return conn, dial()
	}
	err = netns.Do(p.namespaces().Path(specs.NetworkNamespace), dial)
	return conn, err
}

// Update changes the limits of the pod's cgroup where it is the driver's own; the
// kubelet limits the cgroups that it makes itself.
func (p *pod) Update(_ context.Context, r, overhead *runtime.Resources) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := &p.state.Config
	if c.CgroupParent != "" || p.driver.opts.SystemdCgroup {
		return nil
	}
	want := Config{Resources: c.Resources, Overhead: c.Overhead}
	want.Relimit(r, overhead)
	if err := p.driver.limit(p.cgroupPath(), want.Limits()); err != nil {
		return err
	}
	c.Relimit(r, overhead)
	return p.writeState()
}

// limit changes the limits of a cgroup.
func (k *Kernel) limit(path string, r *runtime.Resources) error {
	return k.cgroup.Update(path, spec.Resources(r, k.cgroup.Unified()))
}

// Stat fills s with the figures of the pod's cgroup and interfaces.
func (p *pod) Stat(_ context.Context, s *Stat) error {
	if path := p.cgroupPath(); path != "/" {
		err := p.driver.cgroup.Stat(path, &s.Stat)
		// systemd makes the slice with the first container.
		if err != nil && (!errdefs.IsNotFound(err) || !p.driver.opts.SystemdCgroup) {
			return err
		}
	}
	s.Network = nil
	ns := p.Status().NetNS
	if ns == "" {
		return nil
	}
	counters, err := netns.Counters(ns)
	if err != nil {
		return err
	}
	s.Network = counters
	return nil
}
