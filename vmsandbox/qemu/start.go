package qemu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cricket-cri/cricket/runtime/flow"
	"github.com/cricket-cri/cricket/runtime/monitor"
	"github.com/cricket-cri/cricket/vmsandbox/tree"
	"github.com/cricket-cri/cricket/vmsandbox/vmm"
)

// startTime bounds a start whose Config says nothing.
const startTime = 30 * time.Second

// logName is the file with what QEMU and the guest's console said.
const logName = "log"

// starting is a machine on its way.
type starting struct {
	h         *hypervisor
	config    vmm.Config
	dir       string
	record    record
	launch    launch
	inherited inherited
	listeners []*os.File
	made      monitor.Created
	machine   *machine
}

// Start starts QEMU and prepares everything up to the first instruction of the guest.
func (h *hypervisor) Start(ctx context.Context, c vmm.Config) (vmm.Machine, error) {
	if err := check(c); err != nil {
		return nil, err
	}
	limit := startTime
	if c.Deadline > 0 {
		limit = c.Deadline
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	s := &starting{h: h, config: c, dir: h.dir(c.ID)}
	defer s.closeFiles()
	s.record = record{MemoryMiB: c.Shape.MemoryMiB, MaxMemoryMiB: c.Shape.MaxMemoryMiB}
	drop := func(context.Context) error { return tree.Remove(s.dir) }
	err := flow.Run(ctx, "start machine",
		flow.Step{Name: "claim machine directory", Do: s.claim, Undo: drop},
		flow.Step{Name: "listen for machine", Do: s.listen},
		flow.Step{
			Name: "spawn QEMU", Do: s.spawn,
			Undo: func(ctx context.Context) error { return h.options.Monitor.Delete(ctx, process(c.ID)) },
		},
		flow.Step{Name: "connect to QEMU", Do: s.connect, Undo: func(context.Context) error { return s.machine.Close() }},
		flow.Step{Name: "prepare machine", Do: s.prepare})
	if err != nil {
		return nil, err
	}
	return s.machine, nil
}

// claim makes the machine's directory and gives the machine a user.
func (s *starting) claim(context.Context) error {
	for _, socket := range sockets() {
		if len(filepath.Join(s.dir, socket)) > maxSocketPath {
			return fmt.Errorf("path of socket is too long: %w", errdefs.ErrInvalidArgument)
		}
	}
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	err := os.Mkdir(s.dir, 0o700)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("make directory: %w", errdefs.ErrAlreadyExists)
	}
	if err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	if s.record.User, err = s.h.freeUser(); err == nil {
		err = writeRecord(s.dir, s.record)
	}
	if err != nil {
		_ = os.RemoveAll(s.dir) // nothing can be mounted there yet
	}
	return err
}

// listen opens the sockets that QEMU will accept connections on.
func (s *starting) listen(context.Context) error {
	s.launch = launch{config: s.config, volumes: s.config.Volumes, sockets: map[string]int{}}
	for _, name := range sockets() {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(s.dir, name), Net: "unix"})
		if err != nil {
			return fmt.Errorf("listen: %w", err)
		}
		l.SetUnlinkOnClose(false) // it is QEMU's
		f, err := l.File()
		l.Close()
		if err != nil {
			return fmt.Errorf("listen: %w", err)
		}
		s.listeners = append(s.listeners, f)
		s.launch.sockets[name] = s.inherited.add(f)
	}
	return nil
}

func (s *starting) spawn(ctx context.Context) error {
	c := s.config
	if c.Memory.File != nil {
		s.launch.memory = s.inherited.add(c.Memory.File)
	}
	if c.State != nil {
		// Machines that start at once from one state must not share a file offset.
		f, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", c.State.Fd()))
		if err != nil {
			return fmt.Errorf("open state: %w", err)
		}
		defer f.Close()
		s.launch.state = s.inherited.add(f)
	}
	if c.Tap != nil {
		s.launch.tap = s.inherited.add(c.Tap)
	}
	if c.State == nil {
		if err := s.launch.resolve(); err != nil {
			return err
		}
	}
	if c.Shape.Accelerator == vmm.AccelTCG {
		s.launch.tscKHz = hostTSC()
	}
	if s.launch.volumes == "" {
		s.launch.volumes = filepath.Join(s.dir, "no-volumes")
		if err := os.Mkdir(s.launch.volumes, 0o755); err != nil {
			return fmt.Errorf("make empty directory of volumes: %w", err)
		}
	}
	args, err := s.launch.args()
	if err != nil {
		return err
	}
	args = append([]string{s.h.options.Program}, args...)
	if args, err = s.h.confined(args, s.launch, s.record.User); err != nil {
		return err
	}
	s.made, err = s.h.options.Monitor.Spawn(ctx, monitor.SpawnRequest{
		ID: process(c.ID), Sandbox: c.ID, Args: args, Env: []string{"PATH=/usr/bin:/bin", "LC_ALL=C"},
		Dir: "/", Cgroup: c.Cgroup, LogPath: filepath.Join(s.dir, logName),
	}, s.inherited.files)
	if err != nil {
		return errors.Join(err, s.h.options.Monitor.Delete(context.WithoutCancel(ctx), process(c.ID)))
	}
	return nil
}

// resolve follows symbolic links to what QEMU boots: where it is confined it sees those
// files alone.
func (l *launch) resolve() error {
	for _, path := range []*string{&l.config.Shape.Kernel, &l.config.Shape.Initrd} {
		if *path == "" {
			continue
		}
		real, err := filepath.EvalSymlinks(*path)
		if errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("find what to boot: %w: %w", errdefs.ErrNotFound, err)
		}
		if err != nil {
			return fmt.Errorf("find what to boot: %w", err)
		}
		*path = real
	}
	return nil
}

func (s *starting) connect(ctx context.Context) (err error) {
	s.machine, err = s.h.connect(ctx, s.config.ID, s.record, s.made.Pid)
	if err != nil {
		s.machine.abandon()
	}
	return err
}

// prepare brings the machine to where the guest can go on, and lets a cold one run.
func (s *starting) prepare(ctx context.Context) error {
	m := s.machine
	for _, bytes := range s.config.Added {
		if err := m.AddMemory(ctx, bytes); err != nil {
			return err
		}
	}
	if s.config.State != nil {
		if err := m.load(ctx, s.launch.state, s.config.Whole); err != nil {
			return err
		}
	}
	for slot, d := range s.config.Disks {
		if err := m.SetDisk(ctx, slot, d); err != nil {
			return err
		}
	}
	if s.config.State != nil {
		return nil
	}
	return m.Resume(ctx)
}

func (s *starting) closeFiles() {
	for _, f := range s.listeners {
		f.Close()
	}
}
