package sandbox_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/monitor"
	"github.com/cricket-cri/cricket/sandbox"
	"github.com/cricket-cri/cricket/sandbox/cni"
)

// fakeMonitor holds real namespaces but runs no containers.
type fakeMonitor struct {
	t *testing.T

	mu      sync.Mutex
	held    map[string]*exec.Cmd
	created map[string]monitor.CreateRequest
	fail    error
}

func (m *fakeMonitor) Hold(_ context.Context, r monitor.HoldRequest) (int, error) {
	flags := map[specs.LinuxNamespaceType]uintptr{
		specs.UserNamespace: syscall.CLONE_NEWUSER, specs.PIDNamespace: syscall.CLONE_NEWPID,
		specs.NetworkNamespace: syscall.CLONE_NEWNET, specs.IPCNamespace: syscall.CLONE_NEWIPC,
		specs.UTSNamespace: syscall.CLONE_NEWUTS,
	}
	c := exec.Command("sleep", "100")
	c.SysProcAttr = &syscall.SysProcAttr{}
	for _, t := range r.Namespaces {
		c.SysProcAttr.Cloneflags |= flags[t]
	}
	for _, u := range r.UIDMappings {
		c.SysProcAttr.UidMappings = append(c.SysProcAttr.UidMappings, syscall.SysProcIDMap{ContainerID: int(u.ContainerID), HostID: int(u.HostID), Size: int(u.Size)})
	}
	for _, g := range r.GIDMappings {
		c.SysProcAttr.GidMappings = append(c.SysProcAttr.GidMappings, syscall.SysProcIDMap{ContainerID: int(g.ContainerID), HostID: int(g.HostID), Size: int(g.Size)})
	}
	if err := c.Start(); err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.held[r.ID] = c
	return c.Process.Pid, nil
}

func (m *fakeMonitor) Release(_ context.Context, id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c := m.held[id]; c != nil {
		_ = c.Process.Kill()
		_ = c.Wait()
		delete(m.held, id)
	}
	return nil
}

func (m *fakeMonitor) Create(_ context.Context, r monitor.CreateRequest) (monitor.Created, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return monitor.Created{}, m.fail
	}
	m.created[r.ID] = r
	return monitor.Created{Pid: os.Getpid()}, nil
}

func (m *fakeMonitor) find(id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.created[id]; !ok {
		return errdefs.ErrNotFound
	}
	return nil
}

func (m *fakeMonitor) State(_ context.Context, id string) (runtime.State, error) {
	return runtime.State{Phase: runtime.Running, Pid: os.Getpid()}, m.find(id)
}

func (m *fakeMonitor) Delete(_ context.Context, id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.created, id)
	return nil
}

func (m *fakeMonitor) List(context.Context) (all []monitor.Entry, _ error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id := range m.held {
		all = append(all, monitor.Entry{Kind: monitor.KindHold, ID: id})
	}
	for id, r := range m.created {
		all = append(all, monitor.Entry{ID: id, Sandbox: r.Sandbox, Bundle: r.Bundle})
	}
	return all, nil
}

func (m *fakeMonitor) Start(_ context.Context, id string) (time.Time, error) {
	return time.Now(), m.find(id)
}

func (m *fakeMonitor) Signal(_ context.Context, id string, _ unix.Signal) error { return m.find(id) }

func (m *fakeMonitor) Wait(_ context.Context, id string) (runtime.Exit, error) {
	return runtime.Exit{}, m.find(id)
}

func (m *fakeMonitor) Exec(_ context.Context, id string, _ monitor.ExecRequest, _ runtime.Streams) (runtime.Exit, error) {
	return runtime.Exit{}, m.find(id)
}

func (m *fakeMonitor) Attach(_ context.Context, id string, _ runtime.Streams) error {
	return m.find(id)
}
func (m *fakeMonitor) ReopenLog(_ context.Context, id string) error { return m.find(id) }
func (m *fakeMonitor) Checkpoint(ctx context.Context, id string, _ monitor.CheckpointRequest, while func(context.Context) error) error {
	if err := m.find(id); err != nil {
		return err
	}
	return while(ctx)
}
func (m *fakeMonitor) Update(_ context.Context, id string, _ *specs.LinuxResources) error {
	return m.find(id)
}

// fakeLayers is one directory.
type fakeLayers struct{ dir string }

func (l fakeLayers) Mount(_ context.Context, chain []digest.Digest) ([]string, error) {
	if len(chain) == 0 {
		return nil, errdefs.ErrInvalidArgument
	}
	return []string{l.dir}, nil
}

// fakeNetwork gives everybody one address.
type fakeNetwork struct {
	mu    sync.Mutex
	ids   []string
	fail  error
	asked cni.Pod
}

func (n *fakeNetwork) Add(_ context.Context, p cni.Pod) ([]netip.Addr, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asked = p
	if n.fail != nil {
		return nil, n.fail
	}
	n.ids = append(n.ids, p.ID)
	return []netip.Addr{netip.MustParseAddr("10.0.0.9")}, nil
}

func (n *fakeNetwork) Del(_ context.Context, id string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ids = slices.DeleteFunc(n.ids, func(other string) bool { return other == id })
	return nil
}

func (n *fakeNetwork) List() ([]string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.ids), nil
}

// host is a driver with everything around it, and what it must leave behind: nothing.
type host struct {
	*sandbox.Kernel
	monitor *fakeMonitor
	network *fakeNetwork
	options sandbox.Options
	parent  string
	// socket and client are those of a real monitor.
	socket string
	client *monitor.Client
}

func newHost(t *testing.T) *host {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	h := &host{
		monitor: &fakeMonitor{t: t, held: map[string]*exec.Cmd{}, created: map[string]monitor.CreateRequest{}},
		network: &fakeNetwork{},
		parent:  "/cricket-test-" + filepath.Base(dir) + strings.ReplaceAll(filepath.Base(filepath.Dir(dir)), "Test", "-"),
	}
	h.options = sandbox.Options{
		Root: filepath.Join(dir, "root"), State: filepath.Join(dir, "state"),
		Monitor: h.monitor, Layers: fakeLayers{dir: t.TempDir()}, Network: h.network,
	}
	h.restart(t)
	t.Cleanup(func() { h.expectNothing(t) })
	return h
}

// restart makes a new driver on what the last one left.
func (h *host) restart(t *testing.T) {
	t.Helper()
	var err error
	if h.Kernel, err = sandbox.NewDriver(h.options); err != nil {
		t.Fatal(err)
	}
}

func (h *host) config(id string) sandbox.Config {
	return sandbox.Config{
		ID: id, Name: "pod", Namespace: "default", UID: "uid", Hostname: "the-pod",
		Network: runtime.NamespacePod, IPC: runtime.NamespacePod, PID: runtime.NamespaceContainer,
		CgroupParent: h.parent + "/" + id,
		DNS:          &sandbox.DNS{Servers: []string{"10.0.0.1"}, Searches: []string{"a", "b"}, Options: []string{"ndots:5"}},
	}
}

func (h *host) expectNothing(t *testing.T) {
	t.Helper()
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(table), h.options.State) {
		t.Errorf("something is still mounted: %v", err)
	}
	for _, dir := range []string{"state/sandboxes", "state/containers", "state/ns", "root/containers"} {
		entries, err := os.ReadDir(filepath.Join(filepath.Dir(h.options.State), dir))
		if err != nil || len(entries) > 0 {
			t.Errorf("%s: %v %v", dir, entries, err)
		}
	}
	for _, cgroup := range []string{h.parent, "/cricket/" + podID} {
		if dirs, _ := filepath.Glob("/sys/fs/cgroup/*" + cgroup); len(dirs) > 0 {
			t.Errorf("cgroups are left: %v", dirs)
		}
	}
	if h.client != nil && h.client == h.options.Monitor {
		if entries, err := h.client.List(context.Background()); err == nil && len(entries) > 0 {
			t.Errorf("the monitor still has %v", entries)
		}
	}
	if ids, _ := h.options.Network.List(); len(ids) > 0 {
		t.Errorf("network attachments are left: %v", ids)
	}
	if len(h.monitor.held) > 0 || len(h.monitor.created) > 0 {
		t.Errorf("the monitor still has %v %v", h.monitor.held, h.monitor.created)
	}
	if ids, err := h.List(context.Background()); err != nil || len(ids) > 0 {
		t.Errorf("traces are left: %v %v", ids, err)
	}
}

var errBroken = errors.New("broken on purpose")

// podID differs between test processes, which share the machine's cgroups.
var podID = fmt.Sprintf("5a%x", os.Getpid())
