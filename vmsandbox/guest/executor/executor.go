// Package executor runs containers in the guest without the program of an OCI runtime:
// it is the monitor.Executor of process 1.
//
// What costs time in a guest is starting programs. For each process of a container just
// one is started, of about a kilobyte: the stub (stub/stub.c), which carries out a list
// of system calls that is made here, and ends it by executing the container's program.
// What does not need to be done by that process, like mounting, is done here, on a
// thread that enters its mount namespace.
//
// It needs Linux 6.7, cgroup v2 alone, a root file system that pivot_root(2) can leave
// (not the initramfs itself), and all capabilities.
package executor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime/monitor"
	"github.com/cricket-cri/cricket/vmsandbox/seccomp"
)

// Options configure an Executor.
type Options struct {
	// CgroupRoot is where cgroup v2 is mounted; empty for /sys/fs/cgroup. Cgroups of
	// containers are their paths below it.
	CgroupRoot string
}

// Executor implements monitor.Executor. It is safe for concurrent use.
type Executor struct {
	cgroupRoot string
	program    *os.File

	mu         sync.Mutex
	containers map[string]*container
}

// New returns an Executor.
func New(o Options) (*Executor, error) {
	if o.CgroupRoot == "" {
		o.CgroupRoot = "/sys/fs/cgroup"
	}
	program, err := openStub()
	if err != nil {
		return nil, err
	}
	return &Executor{cgroupRoot: o.CgroupRoot, program: program, containers: make(map[string]*container)}, nil
}

var _ monitor.Executor = (*Executor)(nil)

// Create implements monitor.Executor.
func (e *Executor) Create(b monitor.Blueprint) (monitor.Process, error) {
	if err := check(b.Spec); err != nil {
		return monitor.Process{}, err
	}
	c := &container{id: b.ID, spec: b.Spec}
	e.mu.Lock()
	_, taken := e.containers[b.ID]
	if !taken {
		e.containers[b.ID] = c
	}
	e.mu.Unlock()
	if taken {
		return monitor.Process{}, fmt.Errorf("container %s: %w", b.ID, errdefs.ErrAlreadyExists)
	}
	p, err := e.create(c, b)
	if err != nil {
		err = errors.Join(err, e.Delete(b.ID))
	}
	return p, err
}

func (e *Executor) create(c *container, b monitor.Blueprint) (p monitor.Process, err error) {
	if c.ns, err = sortNamespaces(c.spec.Linux.Namespaces); err != nil {
		return p, err
	}
	if c.filter, err = readFilter(b); err != nil {
		return p, err
	}
	if err := e.confine(c); err != nil {
		return p, err
	}
	rootPath := c.spec.Root.Path
	if !filepath.IsAbs(rootPath) {
		rootPath = filepath.Join(b.Bundle, rootPath)
	}
	if err := onThread(func() error { return e.launch(c, b, rootPath) }); err != nil {
		return p, err
	}
	if c.spec.Process.Terminal {
		if p.Terminal, err = c.init.terminal(); err != nil {
			return p, err
		}
	}
	c.pid, c.pidfd = c.init.pid, c.init.pidfd
	p.Pid = c.pid
	return p, nil
}

// readFilter reads the program that the host has made of the seccomp profile. A profile
// without a program is refused: nothing here would apply it.
func readFilter(b monitor.Blueprint) (*seccomp.Filter, error) {
	if b.Spec.Linux.Seccomp == nil {
		return nil, nil
	}
	program, err := os.ReadFile(filepath.Join(b.Bundle, seccomp.ProgramFile))
	if err != nil {
		return nil, fmt.Errorf("read seccomp program: %w: %w", errdefs.ErrInvalidArgument, err)
	}
	return seccomp.Parse(program)
}

// confine makes the cgroup, and what is limited by it.
func (e *Executor) confine(c *container) (err error) {
	c.path = c.spec.Linux.CgroupsPath
	if c.path == "" {
		c.path = "/" + c.id
	}
	if c.cgroup, err = makeCgroup(e.cgroupRoot, c.path); err != nil {
		return err
	}
	r := c.spec.Linux.Resources
	if err := c.cgroup.limit(r); err != nil || r == nil || len(r.Devices) == 0 {
		return err
	}
	return c.cgroup.controlDevices(append(slices.Clone(r.Devices), everywhere()...))
}

// launch starts the container's first process and returns when it waits for Start. It
// moves the calling thread into the container's mount namespace.
func (e *Executor) launch(c *container, b monitor.Blueprint, rootPath string) error {
	plan, err := c.initPlan(rootPath)
	if err != nil {
		return err
	}
	if err := c.ns.join(); err != nil {
		return err
	}
	dir, err := c.cgroup.open()
	if err != nil {
		return err
	}
	defer dir.Close()
	l := launch{plan: plan, stdio: b.Stdio, cgroup: dir}
	if err := c.ns.place(&l, c.spec); err != nil {
		return err
	}
	for _, f := range l.extra {
		defer f.Close()
	}
	if c.init, err = e.start(l); err != nil {
		return err
	}
	return c.build(b, rootPath)
}

func (e *Executor) find(id string) (*container, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	c, ok := e.containers[id]
	if !ok {
		return nil, fmt.Errorf("container %s: %w", id, errdefs.ErrNotFound)
	}
	return c, nil
}

// Start implements monitor.Executor.
func (e *Executor) Start(id string) error {
	c, err := e.find(id)
	if err != nil {
		return err
	}
	e.mu.Lock()
	init := c.init
	c.init = nil
	e.mu.Unlock()
	if init == nil {
		return fmt.Errorf("start container twice: %w", errdefs.ErrFailedPrecondition)
	}
	err = init.execute()
	init.hangUp() // its pidfd is the container's
	return err
}

// Exec implements monitor.Executor.
func (e *Executor) Exec(id string, process *specs.Process, stdio [3]*os.File) (p monitor.Process, err error) {
	c, err := e.find(id)
	if err != nil {
		return p, err
	}
	if err := checkProcess(process); err != nil {
		return p, err
	}
	e.mu.Lock()
	pidfd, pid := c.pidfd, c.pid
	if pidfd != nil && c.init == nil {
		pidfd, err = duplicate(pidfd)
	} else {
		err = fmt.Errorf("container does not run: %w", errdefs.ErrFailedPrecondition)
	}
	e.mu.Unlock()
	if err != nil {
		return p, err
	}
	defer pidfd.Close()
	x := execution{e: e, c: c, process: process, stdio: stdio, init: pidfd, pid: pid}
	return x.run()
}

func duplicate(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicate descriptor: %w", err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// Update implements monitor.Executor.
func (e *Executor) Update(id string, r *specs.LinuxResources) error {
	c, err := e.find(id)
	if err != nil {
		return err
	}
	return c.cgroup.limit(r)
}

// Delete implements monitor.Executor.
func (e *Executor) Delete(id string) error {
	c, err := e.find(id)
	if err != nil {
		return nil
	}
	e.mu.Lock()
	c.close()
	e.mu.Unlock()
	if c.cgroup != "" {
		if err := c.cgroup.remove(); err != nil {
			return err
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.containers, id)
	return nil
}

// Close lets go of the containers, which it does not end.
func (e *Executor) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, c := range e.containers {
		c.close()
	}
	clear(e.containers)
	return e.program.Close()
}
