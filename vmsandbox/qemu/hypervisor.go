package qemu

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/monitor"
	"github.com/cricket-cri/cricket/vmsandbox/tree"
	"github.com/cricket-cri/cricket/vmsandbox/vmm"
)

// Monitor is the parent of all machines; *monitor.Client is one.
type Monitor interface {
	Spawn(ctx context.Context, r monitor.SpawnRequest, files []*os.File) (monitor.Created, error)
	State(ctx context.Context, id string) (runtime.State, error)
	Wait(ctx context.Context, id string) (runtime.Exit, error)
	Delete(ctx context.Context, id string) error
}

// Options of a Hypervisor.
type Options struct {
	// Program is QEMU's path.
	Program string
	// State is the directory that holds a directory for each machine. It should be on a
	// tmpfs, and its path short: sockets lie below.
	State   string
	Monitor Monitor
	// Confine says how QEMU is confined; nil starts it as it is, with all rights of the
	// monitor.
	Confine *Confine
	Log     *slog.Logger
}

type hypervisor struct {
	options Options

	mu       sync.Mutex // guards what follows, and claims of directories and users
	version  string
	measured programID // whose version it is
}

// New returns a Hypervisor. It starts nothing.
func New(o Options) (vmm.Hypervisor, error) {
	if o.Program == "" || o.State == "" || o.Monitor == nil {
		return nil, fmt.Errorf("configure QEMU: program, state or monitor missing: %w", errdefs.ErrInvalidArgument)
	}
	if n := len(filepath.Join(o.State, "", longestSocket())) + 12; n > maxSocketPath {
		return nil, fmt.Errorf("configure QEMU: path of the state is too long for sockets: %w", errdefs.ErrInvalidArgument)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(o.State, 0o711); err != nil {
		return nil, fmt.Errorf("configure QEMU: %w", err)
	}
	return &hypervisor{options: o}, nil
}

// process is the name of a machine's process in the monitor.
func process(id string) string { return "vm-" + id }

func (h *hypervisor) dir(id string) string { return filepath.Join(h.options.State, id) }

// List names the directories: a machine has one from before its start until it is
// removed.
func (h *hypervisor) List(context.Context) ([]string, error) {
	entries, err := os.ReadDir(h.options.State)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("list machines: %w", err)
	}
	var ids []string
	for _, e := range entries {
		if e.IsDir() && validID(e.Name()) {
			ids = append(ids, e.Name())
		}
	}
	return ids, nil
}

// Attach connects to a machine that an earlier daemon started.
func (h *hypervisor) Attach(ctx context.Context, id string) (vmm.Machine, error) {
	if !validID(id) {
		return nil, fmt.Errorf("attach to machine: %w", errdefs.ErrNotFound)
	}
	dir := h.dir(id)
	rec, err := readRecord(dir)
	if err != nil {
		return nil, fmt.Errorf("attach to machine: %w", err)
	}
	state, err := h.options.Monitor.State(ctx, process(id))
	if err != nil {
		return nil, fmt.Errorf("attach to machine: %w", err)
	}
	if state.Phase == runtime.Exited || state.Pid == 0 {
		return nil, fmt.Errorf("attach to machine: it has ended: %w", errdefs.ErrNotFound)
	}
	m, err := h.connect(ctx, id, rec, state.Pid)
	if err == nil {
		// A state that is being written for a daemon that is gone would end with a machine
		// that stands still.
		err = m.over(ctx, true)
	}
	if err == nil {
		err = m.findDisks(ctx)
	}
	if err == nil {
		err = m.putBack(ctx)
	}
	if err != nil {
		m.abandon()
		if m.ended() { // the monitor had not heard of it
			err = fmt.Errorf("%w: %w", errdefs.ErrNotFound, err)
		}
		return nil, fmt.Errorf("attach to machine: %w", err)
	}
	return m, nil
}

// Remove kills a machine and removes what it left.
func (h *hypervisor) Remove(ctx context.Context, id string) error {
	if !validID(id) {
		return nil
	}
	if err := h.options.Monitor.Delete(ctx, process(id)); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove machine: %w", err)
	}
	if err := tree.Remove(h.dir(id)); err != nil {
		return fmt.Errorf("remove machine: %w", err)
	}
	return nil
}

// programID tells whether a program is still the one that was asked.
type programID struct {
	inode uint64
	size  int64
	time  unix.Timespec
}

// versionTime bounds how long the program may take to say its version.
const versionTime = 10 * time.Second

// Version asks the program, once for as long as its file stays the same.
func (h *hypervisor) Version(ctx context.Context) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat(h.options.Program, &st); err != nil {
		return "", fmt.Errorf("find QEMU: %w: %w", errdefs.ErrNotFound, err)
	}
	now := programID{inode: st.Ino, size: st.Size, time: st.Mtim}
	h.mu.Lock()
	known, measured := h.version, h.measured
	h.mu.Unlock()
	if known != "" && measured == now {
		return known, nil
	}
	ctx, cancel := context.WithTimeout(ctx, versionTime)
	defer cancel()
	out, err := exec.CommandContext(ctx, h.options.Program, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("ask QEMU for its version: %w: %w", errdefs.ErrUnavailable, err)
	}
	first, _, _ := strings.Cut(string(out), "\n")
	if len(first) > 256 {
		first = first[:256]
	}
	version := strings.ToValidUTF8(strings.TrimSpace(first), "") + ", devices " + layout
	h.mu.Lock()
	h.version, h.measured = version, now
	h.mu.Unlock()
	return version, nil
}

// maxSocketPath is the kernel's limit, in bytes.
const maxSocketPath = 107

func longestSocket() string {
	return slices.MaxFunc(sockets(), func(a, b string) int { return len(a) - len(b) })
}
