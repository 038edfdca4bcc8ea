package vmsandbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/cricket-cri/cricket/vmsandbox/agent"
	"github.com/cricket-cri/cricket/vmsandbox/vmm"
)

// world is everything around the driver, in memory: what is there, and what was asked for.
type world struct {
	t   *testing.T
	dir string

	mu       sync.Mutex
	calls    []string
	failing  string // the call that fails
	failure  error  // with that; errBroken if it is nil
	deadly   string // the call that takes the machines along
	rootfs   Rootfs // of machines that are claimed
	form     string // in which layers are stored
	platform Platform
	machines map[string]*fakeMachine
	attached map[string]bool // to the network
	disks    map[string]bool
	mirrors  map[string]bool
	volumes  map[string]bool

	before func(call string) // see tell
}

var errBroken = errors.New("broken")

func newWorld(t *testing.T) *world {
	return &world{
		t: t, dir: t.TempDir(), machines: map[string]*fakeMachine{}, attached: map[string]bool{},
		disks: map[string]bool{}, mirrors: map[string]bool{}, volumes: map[string]bool{},
		platform: Platform{Hypervisor: "fake 1", MemoryMiB: 256},
	}
}

// did notes a call and says whether it fails.
func (w *world) did(format string, args ...any) error {
	call := fmt.Sprintf(format, args...)
	w.mu.Lock()
	before := w.before
	w.mu.Unlock()
	if before != nil {
		before(call)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls = append(w.calls, call)
	if w.deadly == call {
		for _, m := range w.machines {
			_ = m.cmd.Process.Kill()
		}
	}
	if w.failing == call {
		return cmp.Or(w.failure, errBroken)
	}
	return nil
}

// tell has f told of every call from now on, before anything comes of it.
func (w *world) tell(f func(call string)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.before = f
}

func (w *world) has(call string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Contains(w.calls, call)
}

// left is what exists outside of the driver.
func (w *world) left() (all []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for id := range w.machines {
		all = append(all, "machine "+id)
	}
	for what, set := range map[string]map[string]bool{"network": w.attached, "disk": w.disks, "mirror": w.mirrors, "volume": w.volumes} {
		for id := range set {
			all = append(all, what+" "+id)
		}
	}
	pods, _ := readNames(filepath.Join(w.dir, "vm", "pods"))
	return append(all, pods...)
}

func (w *world) driver() *Driver {
	w.t.Helper()
	d, err := NewDriver(Options{
		State: w.dir, Machines: w, Mirrors: mirrorsOf{w}, Layers: layersOf{w}, Disks: disksOf{w}, Network: networkOf{w},
		Volumes: func(o VolumeOptions) (Volumes, error) { return &fakeVolumes{w: w, o: o}, nil }, MaxMemoryMiB: 1024,
		cross: func(path, name string) (agent.Network, error) {
			return agent.Network{Name: name, MAC: "02:00:00:00:00:01"}, w.did("cross %s %s", filepath.Base(path), name)
		},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return d
}

// Claim hands out a machine whose process sleeps.
func (w *world) Claim(context.Context) (*Machine, error) { return w.machine("claim") }

func (w *world) Platform(context.Context) (Platform, error) { return w.platform, w.did("platform") }

// Restore hands out one that has the containers of the machine that was saved last.
func (w *world) Restore(ctx context.Context, s SavedMachine) (*Machine, error) {
	text, err := io.ReadAll(s.State)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	saved := w.machines[strings.TrimPrefix(string(text), "state of ")]
	next := fmt.Sprintf("m%d", len(w.machines)+1)
	w.mu.Unlock()
	if saved == nil {
		return nil, fmt.Errorf("state is %q: %w", text, errdefs.ErrInternal)
	}
	var m *Machine
	made, err := s.Disks(ctx, next)
	if err == nil {
		m, err = w.machine("restore")
	}
	if err != nil {
		return nil, errors.Join(err, disksOf{w}.Remove(next))
	}
	fresh := w.machines[m.ID()]
	fresh.guest.added = sum(s.Added)
	fresh.monitor.containers = saved.monitor.copies()
	for slot := range made {
		fresh.filled[slot] = true
	}
	return m, nil
}

func (w *world) machine(call string) (*Machine, error) {
	if err := w.did("%s", call); err != nil {
		return nil, err
	}
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	m := &fakeMachine{
		w: w, id: fmt.Sprintf("m%d", len(w.machines)+1), cmd: cmd, done: make(chan struct{}), lost: make(chan struct{}),
		filled: map[string]bool{"rw0": true},
	}
	m.guest, m.monitor = &fakeGuest{w: w}, newFakeMonitor(w)
	go func() { _ = cmd.Wait(); close(m.done) }()
	w.machines[m.id] = m
	w.t.Cleanup(func() { _ = cmd.Process.Kill(); <-m.done })
	claimed := m.claimed()
	claimed.Rootfs, claimed.Platform = w.rootfs, w.platform
	return claimed, nil
}

func (w *world) Attach(_ context.Context, id string) (*Machine, error) {
	w.mu.Lock()
	m := w.machines[id]
	w.mu.Unlock()
	if m == nil {
		return nil, errdefs.ErrNotFound
	}
	select {
	case <-m.done:
		return nil, errdefs.ErrNotFound
	default:
		return m.claimed(), w.did("attach")
	}
}

func (w *world) Remove(_ context.Context, id string) error {
	w.mu.Lock()
	m := w.machines[id]
	delete(w.machines, id)
	w.mu.Unlock()
	if m != nil {
		_ = m.cmd.Process.Kill()
		<-m.done
	}
	return w.did("remove machine")
}

type fakeMachine struct {
	vmm.Machine
	w          *world
	id         string
	cmd        *exec.Cmd
	done, lost chan struct{}
	guest      *fakeGuest
	monitor    *fakeMonitor
	mapped     []string        // files, each on the bus of its place and 1
	filled     map[string]bool // slots with a disk; guarded by w.mu
}

func (m *fakeMachine) claimed() *Machine {
	return &Machine{
		Machine: m, Guest: m.guest, Monitor: m.monitor, Ping: m.monitor.ping, Lost: m.lost, Why: func() error { return errBroken }, NetNS: filepath.Join(m.Dir(), "netns"), Mounted: []string{"rw0"},
		Open: func(context.Context, string) (net.Conn, error) { return nil, errBroken },
	}
}

func (m *fakeMachine) ID() string             { return m.id }
func (m *fakeMachine) Dir() string            { return filepath.Join(m.w.dir, "machines", m.id) }
func (m *fakeMachine) Pid() int               { return m.cmd.Process.Pid }
func (m *fakeMachine) Done() <-chan struct{}  { return m.done }
func (m *fakeMachine) Socket(p string) string { return filepath.Join(m.Dir(), p) }
func (m *fakeMachine) die()                   { _ = m.cmd.Process.Kill(); <-m.done }

func (m *fakeMachine) Pause(context.Context) error  { return m.w.did("pause") }
func (m *fakeMachine) Resume(context.Context) error { return m.w.did("resume") }

func (m *fakeMachine) Snapshot(_ context.Context, f *os.File, added []int64) error {
	m.w.mu.Lock()
	has := m.guest.added
	m.w.mu.Unlock()
	if has != sum(added) {
		return fmt.Errorf("%d bytes were added, %d are saved: %w", has, sum(added), errdefs.ErrFailedPrecondition)
	}
	_, err := f.WriteString("state of " + m.id)
	return errors.Join(err, m.w.did("snapshot"))
}

func (m *fakeMachine) ClearDisk(_ context.Context, slot string) error {
	m.w.mu.Lock()
	delete(m.filled, slot)
	m.w.mu.Unlock()
	return m.w.did("clear %s", slot)
}

// Map has room for four files.
func (m *fakeMachine) Map(_ context.Context, paths ...string) (buses []int, err error) {
	all := slices.Clone(m.mapped)
	for _, path := range paths {
		if !slices.Contains(all, path) {
			all = append(all, path)
		}
		buses = append(buses, slices.Index(all, path)+1)
	}
	if len(all) > 4 {
		return nil, errdefs.ErrResourceExhausted
	}
	m.mapped = all
	return buses, m.w.did("map %v", buses)
}

func (m *fakeMachine) SetDisk(_ context.Context, slot string, d vmm.Disk) error {
	how := fmt.Sprint(len(d.Files))
	if d.Direct {
		how = "direct"
	}
	if err := m.w.did("set %s %s", slot, how); err != nil {
		return err
	}
	m.w.mu.Lock()
	defer m.w.mu.Unlock()
	if m.filled[slot] {
		return fmt.Errorf("slot %s is in use: %w", slot, errdefs.ErrFailedPrecondition)
	}
	m.filled[slot] = true
	return nil
}

func (m *fakeMachine) AddMemory(_ context.Context, bytes int64) error {
	if err := m.w.did("add memory %d", bytes>>20); err != nil {
		return err
	}
	m.w.mu.Lock()
	defer m.w.mu.Unlock()
	m.guest.added += bytes
	return nil
}
