package vmsandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/monitor"
	"github.com/cricket-cri/cricket/sandbox/cni"
	"github.com/cricket-cri/cricket/vmsandbox/agent"
)

type fakeGuest struct {
	agent.Guest
	w   *world
	lag time.Duration // of its clock
	// way is how long answers are on their way.
	way time.Duration
	// added is the memory that its machine was given, in bytes; guarded by w.mu.
	added int64
}

func (g *fakeGuest) Hello(context.Context) (agent.Info, error) {
	g.w.mu.Lock()
	memory := 256<<20 + uint64(g.added)
	g.w.mu.Unlock()
	info := agent.Info{MemoryBytes: memory, Capabilities: []string{"CAP_CHOWN"}, UnixNanos: time.Now().Add(-g.lag).UnixNano()}
	time.Sleep(g.way)
	return info, g.w.did("hello")
}

func (g *fakeGuest) Identify(_ context.Context, id agent.Identity) error {
	return g.w.did("identify %s", id.Hostname)
}

// Step answers twice as fast every time.
func (g *fakeGuest) Step(_ context.Context, by time.Duration) (int64, error) {
	g.lag -= by
	clock := time.Now().Add(-g.lag).UnixNano()
	g.way /= 2
	time.Sleep(g.way)
	return clock, g.w.did("step")
}

func (g *fakeGuest) Connect(_ context.Context, n agent.Network) error {
	return g.w.did("connect %s", n.Name)
}

func (g *fakeGuest) Sysctl(context.Context, map[string]string) error { return g.w.did("sysctl") }

func (g *fakeGuest) Put(_ context.Context, f []agent.File) error { return g.w.did("put %d", len(f)) }

func (g *fakeGuest) Remove(_ context.Context, paths []string) error {
	return g.w.did("remove %s", paths[0])
}

func (g *fakeGuest) Online(context.Context, int64) error { return g.w.did("online") }

func (g *fakeGuest) Unmount(_ context.Context, target string) error {
	return g.w.did("unmount %s", target)
}

func (g *fakeGuest) Limit(context.Context, *specs.LinuxResources) error { return g.w.did("limit") }

func (g *fakeGuest) Mount(_ context.Context, m agent.Mount) error {
	if len(m.Memory) > 0 {
		return g.w.did("mount %s %v %s", m.Type, m.Memory, m.Target)
	}
	return g.w.did("mount %s %s", m.Type, m.Target)
}

// Freeze says that every log is 40 bytes long.
func (g *fakeGuest) Freeze(_ context.Context, names []string) (map[string]int64, error) {
	logs := map[string]int64{}
	for _, name := range names {
		logs[name] = 40
	}
	return logs, g.w.did("freeze %d", len(names))
}

func (g *fakeGuest) Thaw(_ context.Context, names []string) error {
	return g.w.did("thaw %d", len(names))
}

func (g *fakeGuest) Stat(context.Context) (agent.Stat, error) {
	pids := uint64(3)
	return agent.Stat{
		Pod: runtime.Stat{Pids: &pids}, Disks: map[string]runtime.DiskUsage{"rw0": {Bytes: 8, Inodes: 4}},
	}, g.w.did("stat")
}

// fakeMonitor supervises containers that end when told to.
type fakeMonitor struct {
	GuestMonitor
	w *world

	mu         sync.Mutex
	containers map[string]*fakeContainer
	holds      []monitor.HoldRequest
	hangs      chan struct{} // open while it answers nobody
}

type fakeContainer struct {
	request monitor.CreateRequest
	state   runtime.State
	ended   chan struct{}
}

func newFakeMonitor(w *world) *fakeMonitor {
	return &fakeMonitor{w: w, containers: map[string]*fakeContainer{}}
}

func (m *fakeMonitor) get(id string) (*fakeContainer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c := m.containers[id]; c != nil {
		return c, nil
	}
	return nil, errdefs.ErrNotFound
}

// copies are what a machine that goes on from this one's state has.
func (m *fakeMonitor) copies() map[string]*fakeContainer {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := map[string]*fakeContainer{}
	for id, c := range m.containers {
		all[id] = &fakeContainer{request: c.request, state: c.state, ended: make(chan struct{})}
		if c.state.Phase == runtime.Exited {
			close(all[id].ended)
		}
	}
	return all
}

func (m *fakeMonitor) ping(ctx context.Context) error {
	m.mu.Lock()
	hangs := m.hangs
	m.mu.Unlock()
	if hangs != nil {
		select {
		case <-hangs:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (m *fakeMonitor) Create(_ context.Context, r monitor.CreateRequest) (monitor.Created, error) {
	if err := m.w.did("create"); err != nil {
		return monitor.Created{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.containers[r.ID] = &fakeContainer{request: r, state: runtime.State{Phase: runtime.Created, Pid: 7}, ended: make(chan struct{})}
	return monitor.Created{Pid: 7}, nil
}

func (m *fakeMonitor) Start(_ context.Context, id string) (time.Time, error) {
	c, err := m.get(id)
	if err != nil {
		return time.Time{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	c.state.Phase, c.state.StartedAt = runtime.Running, time.Now()
	return c.state.StartedAt, m.w.did("start")
}

func (m *fakeMonitor) State(_ context.Context, id string) (runtime.State, error) {
	c, err := m.get(id)
	if err != nil {
		return runtime.State{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return c.state, nil
}

func (m *fakeMonitor) Signal(_ context.Context, id string, sig unix.Signal) error {
	c, err := m.get(id)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if c.state.Phase != runtime.Exited {
		c.state.Phase, c.state.Exit = runtime.Exited, runtime.Exit{Code: 128 + int32(sig), At: time.Now()}
		close(c.ended)
	}
	return nil
}

func (m *fakeMonitor) Wait(ctx context.Context, id string) (runtime.Exit, error) {
	c, err := m.get(id)
	if err != nil {
		return runtime.Exit{}, err
	}
	select {
	case <-c.ended:
		return c.state.Exit, nil
	case <-ctx.Done():
		return runtime.Exit{}, ctx.Err()
	}
}

func (m *fakeMonitor) Delete(_ context.Context, id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.containers, id)
	return nil
}

func (m *fakeMonitor) Update(context.Context, string, *specs.LinuxResources) error {
	return m.w.did("update")
}

func (m *fakeMonitor) Hold(_ context.Context, r monitor.HoldRequest) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.holds = append(m.holds, r)
	return 42, m.w.did("hold")
}

type layersOf struct{ *world }

func (l layersOf) Flat(_ context.Context, chain []digest.Digest) (files []string, err error) {
	for _, id := range chain {
		files = append(files, "/layers/"+id.Encoded())
	}
	return files, l.did("flat")
}

func (l layersOf) Digest(_ context.Context, file string) (digest.Digest, error) {
	return digest.FromString(l.form + file), l.did("digest")
}

type disksOf struct{ *world }

func (d disksOf) Save(_ context.Context, machine, name string, w io.Writer) error {
	_, err := io.WriteString(w, "disk "+machine+" "+name)
	return errors.Join(err, d.did("save %s", name))
}

func (d disksOf) Load(_ context.Context, machine, name string, r io.Reader) (string, error) {
	if _, err := io.Copy(io.Discard, r); err != nil {
		return "", err
	}
	d.mu.Lock()
	d.disks[machine+"/"+name] = true
	d.mu.Unlock()
	return "/disks/" + name, d.did("load %s", name)
}

func (d disksOf) Take(_ context.Context, machine, name string) (string, error) {
	d.mu.Lock()
	d.disks[machine+"/"+name] = true
	d.mu.Unlock()
	return "/disks/" + name, d.did("take %s", name)
}

func (d disksOf) Path(_, name string) (string, error) { return "/disks/" + name, nil }

func (d disksOf) Remove(machine string, names ...string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for id := range d.disks {
		if len(names) == 0 && strings.HasPrefix(id, machine+"/") || len(names) > 0 && id == machine+"/"+names[0] {
			delete(d.disks, id)
		}
	}
	return nil
}

type networkOf struct{ *world }

func (n networkOf) Add(_ context.Context, p cni.Pod) ([]netip.Addr, error) {
	if err := n.did("add network"); err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.attached[p.ID] = true
	return []netip.Addr{netip.MustParseAddr("10.9.0.5")}, nil
}

func (n networkOf) Del(_ context.Context, id string) error {
	n.mu.Lock()
	delete(n.attached, id)
	n.mu.Unlock()
	return n.did("delete network")
}

type mirrorsOf struct{ *world }

func (m mirrorsOf) Mirror(_ context.Context, r Mirror) error {
	m.mu.Lock()
	m.mirrors[r.ID] = true
	m.mu.Unlock()
	if r.From > 0 || r.Name != r.ID {
		return m.did("mirror %s of %s from %d", r.LogPath, r.Name, r.From)
	}
	return m.did("mirror %s", r.LogPath)
}

func (m mirrorsOf) Flush(_ context.Context, id string) error     { return m.did("flush log") }
func (m mirrorsOf) ReopenLog(_ context.Context, id string) error { return m.did("reopen log") }

func (m mirrorsOf) Delete(_ context.Context, id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.mirrors, id)
	return nil
}

type fakeVolumes struct {
	w       *world
	o       VolumeOptions
	version int // guarded by w.mu
}

func (v *fakeVolumes) Add(_ context.Context, container string, m runtime.Mount) (runtime.Mount, error) {
	v.w.mu.Lock()
	v.w.volumes[container] = true
	v.w.mu.Unlock()
	m.Source = agent.DirShared + m.Source
	return m, v.w.did("add volume")
}

func (v *fakeVolumes) Flush(context.Context, string) error { return v.w.did("flush volumes") }

func (v *fakeVolumes) RemoveContainer(_ context.Context, container string) error {
	v.w.mu.Lock()
	defer v.w.mu.Unlock()
	delete(v.w.volumes, container)
	return nil
}

// State is another each time that follow is called.
func (v *fakeVolumes) State() (json.RawMessage, error) {
	v.w.mu.Lock()
	defer v.w.mu.Unlock()
	if v.version == 0 {
		return json.RawMessage(`{"is":"kept"}`), nil
	}
	return json.RawMessage(fmt.Sprintf(`{"version":%d}`, v.version)), nil
}

// follow changes the state, as a volume does that is followed.
func (v *fakeVolumes) follow() {
	v.w.mu.Lock()
	v.version++
	v.w.mu.Unlock()
	v.o.Changed()
}

func (v *fakeVolumes) Savable() error { return v.w.did("savable") }

func (v *fakeVolumes) Release() error { return v.w.did("release volumes") }

func (v *fakeVolumes) Close() error {
	v.w.mu.Lock()
	defer v.w.mu.Unlock()
	clear(v.w.volumes)
	return nil
}
