package template

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/monitor/monitortest"
	"github.com/cricket-cri/cricket/runtime/mux"
	"github.com/cricket-cri/cricket/vmsandbox/agent"
	"github.com/cricket-cri/cricket/vmsandbox/vmm"
)

// hypervisor is one whose guests are goroutines, reached over real sockets.
type hypervisor struct {
	dir string

	mu       sync.Mutex
	version  string
	machines map[string]*machine
	started  []vmm.Config
	// start, if not nil, is asked before a machine starts.
	start func(c vmm.Config) error
	// mute machines never answer once they have been paused.
	mute func(id string) bool
	pid  func() int
}

func newHypervisor(t *testing.T) *hypervisor {
	t.Helper()
	h := &hypervisor{dir: monitortest.ShortDir(t), version: "1", machines: map[string]*machine{}}
	t.Cleanup(func() {
		ids, _ := h.List(t.Context())
		for _, id := range ids {
			_ = h.Remove(context.Background(), id)
		}
	})
	return h
}

func (h *hypervisor) set(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f()
}

func (h *hypervisor) Start(ctx context.Context, c vmm.Config) (vmm.Machine, error) {
	h.mu.Lock()
	h.started = append(h.started, c)
	ask := h.start
	h.mu.Unlock()
	if ask != nil {
		if err := ask(c); err != nil {
			return nil, err
		}
	}
	if c.Volumes == "" {
		return nil, errors.New("no volumes")
	}
	if c.State != nil {
		b := make([]byte, 5) // reads on from where the file is
		if _, err := c.State.Read(b); err != nil || string(b) != "state" {
			return nil, fmt.Errorf("state is %q: %w", b, err)
		}
	}
	m := &machine{h: h, config: c, id: c.ID, done: make(chan struct{}), resumed: make(chan struct{})}
	if err := os.Mkdir(m.Dir(), 0o700); err != nil {
		return nil, err
	}
	l, err := net.Listen("unix", m.Socket(vmm.PortDaemon))
	if err != nil {
		return nil, err
	}
	m.listener = l
	if c.State == nil {
		close(m.resumed)
	} else {
		m.paused = true
	}
	go m.serve()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.pid != nil {
		m.process = h.pid()
	}
	h.machines[c.ID] = m
	return m, nil
}

func (h *hypervisor) Attach(_ context.Context, id string) (vmm.Machine, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := h.machines[id]
	if m == nil || m.ended() {
		return nil, fmt.Errorf("attach: %w", errdefs.ErrNotFound)
	}
	return m, nil
}

func (h *hypervisor) List(context.Context) ([]string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var ids []string
	for id := range h.machines {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids, nil
}

func (h *hypervisor) Remove(_ context.Context, id string) error {
	h.mu.Lock()
	m := h.machines[id]
	delete(h.machines, id)
	h.mu.Unlock()
	if m == nil {
		return nil
	}
	m.kill()
	return os.RemoveAll(m.Dir())
}

func (h *hypervisor) Version(context.Context) (string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.version, nil
}

// count counts the starts that were boots and those that were clones.
func (h *hypervisor) count() (boots, templates, clones int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range h.started {
		switch {
		case c.State != nil:
			clones++
		case c.Memory.Shared:
			templates++
		default:
			boots++
		}
	}
	return boots, templates, clones
}

func (h *hypervisor) machine(id string) *machine {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.machines[id]
}

type machine struct {
	h        *hypervisor
	id       string
	process  int
	config   vmm.Config
	listener net.Listener
	once     sync.Once
	done     chan struct{}

	mu      sync.Mutex
	paused  bool
	resumed chan struct{} // closed while the machine runs
	calls   []string
}

func (m *machine) ID() string                                      { return m.id }
func (m *machine) Dir() string                                     { return filepath.Join(m.h.dir, m.id) }
func (m *machine) Pid() int                                        { return m.process }
func (m *machine) Socket(port string) string                       { return filepath.Join(m.Dir(), port) }
func (m *machine) Done() <-chan struct{}                           { return m.done }
func (m *machine) Close() error                                    { return nil }
func (m *machine) AddMemory(context.Context, int64) error          { return nil }
func (m *machine) ClearDisk(context.Context, string) error         { return nil }
func (m *machine) SetDisk(context.Context, string, vmm.Disk) error { return nil }
func (m *machine) kill()                                           { m.once.Do(func() { close(m.done); m.listener.Close() }) }

func (m *machine) ended() bool {
	select {
	case <-m.done:
		return true
	default:
		return false
	}
}

func (m *machine) Pause(context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.paused {
		m.paused, m.resumed = true, make(chan struct{})
	}
	return nil
}

func (m *machine) Resume(context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.h.mu.Lock()
	mute := m.h.mute != nil && m.h.mute(m.id) && len(m.calls) > 0
	m.h.mu.Unlock()
	if m.paused && !mute {
		close(m.resumed)
	}
	m.paused = false
	return nil
}

func (m *machine) Save(_ context.Context, f *os.File) error {
	if !m.isPaused() {
		return errors.New("machine runs")
	}
	if _, err := m.config.Memory.File.WriteAt([]byte("memory"), 0); err != nil {
		return err
	}
	_, err := f.WriteAt([]byte("state"), 0)
	return err
}

func (m *machine) isPaused() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.paused
}

func (m *machine) did() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.calls)
}

func (m *machine) serve() {
	for {
		conn, err := m.listener.Accept()
		if err != nil {
			return
		}
		ctx := context.Background()
		go func() {
			<-m.done
			conn.Close()
		}()
		go func() {
			_ = mux.Serve(ctx, port{conn, m}, mux.Options{}, func(service string, c net.Conn) {
				if service != agent.ServiceGuest {
					mux.Refuse(c, errdefs.ErrNotFound)
					return
				}
				agent.ServeCall(ctx, c, &guest{m: m})
			})
		}()
	}
}

// port is a machine's end of a channel: nothing comes out of it while the machine is paused.
type port struct {
	net.Conn
	m *machine
}

func (p port) Write(b []byte) (int, error) {
	if err := p.m.runs(context.Background()); err != nil {
		return 0, err
	}
	return p.Conn.Write(b)
}

// runs waits until the machine does.
func (m *machine) runs(ctx context.Context) error {
	m.mu.Lock()
	resumed := m.resumed
	m.mu.Unlock()
	select {
	case <-resumed:
		return nil
	case <-m.done:
		return net.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// guest does nothing, and that only while its machine runs.
type guest struct{ m *machine }

func (g *guest) call(ctx context.Context, name string) error {
	if err := g.m.runs(ctx); err != nil {
		return err
	}
	g.m.mu.Lock()
	defer g.m.mu.Unlock()
	g.m.calls = append(g.m.calls, name)
	return nil
}

func (g *guest) Hello(ctx context.Context) (agent.Info, error) {
	return agent.Info{Version: 1, Kernel: "6.12", MemoryBytes: 1, CPUs: 1}, g.call(ctx, "hello")
}
func (g *guest) Identify(ctx context.Context, _ agent.Identity) error { return g.call(ctx, "identify") }
func (g *guest) Step(ctx context.Context, _ time.Duration) (int64, error) {
	return time.Now().UnixNano(), g.call(ctx, "step")
}
func (g *guest) Connect(ctx context.Context, _ agent.Network) error { return g.call(ctx, "connect") }
func (g *guest) Sysctl(ctx context.Context, _ map[string]string) error {
	return g.call(ctx, "sysctl")
}
func (g *guest) Mount(ctx context.Context, a agent.Mount) error { return g.call(ctx, "mount "+a.Slot) }
func (g *guest) Unmount(ctx context.Context, _ string) error    { return g.call(ctx, "unmount") }
func (g *guest) Put(ctx context.Context, _ []agent.File) error  { return g.call(ctx, "put") }
func (g *guest) Get(ctx context.Context, _ string) (agent.File, error) {
	return agent.File{}, g.call(ctx, "get")
}
func (g *guest) Remove(ctx context.Context, _ []string) error { return g.call(ctx, "remove") }
func (g *guest) Stat(ctx context.Context) (agent.Stat, error) {
	return agent.Stat{}, g.call(ctx, "stat")
}
func (g *guest) Processes(ctx context.Context) (map[string]runtime.ProcessStat, error) {
	return nil, g.call(ctx, "processes")
}
func (g *guest) Limit(ctx context.Context, _ *specs.LinuxResources) error {
	return g.call(ctx, "limit")
}
func (g *guest) Online(ctx context.Context, _ int64) error { return g.call(ctx, "online") }
func (g *guest) Freeze(ctx context.Context, _ []string) (map[string]int64, error) {
	return nil, g.call(ctx, "freeze")
}
func (g *guest) Thaw(ctx context.Context, _ []string) error { return g.call(ctx, "thaw") }
func (g *guest) Sync(ctx context.Context, drop bool) error {
	return g.call(ctx, fmt.Sprint("sync ", drop))
}

// fixture is a pool on a hypervisor of the kind above.
type fixture struct {
	*Pool
	h     *hypervisor
	disks *disks
}

func newFixture(t *testing.T, o Options) *fixture {
	t.Helper()
	f := &fixture{h: newHypervisor(t), disks: &disks{taken: map[string][]string{}}}
	o.Hypervisor, o.Dir, o.Disks = f.h, filepath.Join(t.TempDir(), "machines"), f.disks
	o.Shape = vmm.Shape{Machine: "q35", MemoryMiB: 1}
	var err error
	if f.Pool, err = New(o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func (f *fixture) begin(t *testing.T) *fixture {
	t.Helper()
	if err := f.Start(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *fixture) claim(t *testing.T) *VM {
	t.Helper()
	vm, err := f.Claim(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return vm
}

// stocked waits until so many machines are parked and nothing is on its way.
func (f *fixture) stocked(t *testing.T, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d machines parked", n), func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return len(f.parked) == n && len(f.making) == 0 && f.makers == 0
	})
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if is() {
			return
		}
	}
	t.Fatalf("never: %s", what)
}
