package executor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime/monitor"
	"github.com/cricket-cri/cricket/vmsandbox/seccomp"
)

// container is one container that was made here.
type container struct {
	id     string
	spec   *specs.Spec
	ns     namespaces
	filter *seccomp.Filter
	cgroup cgroup
	path   string   // of the cgroup, as the specification has it
	init   *stub    // it waits until Start
	pid    int      // of the first process
	pidfd  *os.File // of the same
}

// check refuses what cannot be done, rather than leave it out.
func check(s *specs.Spec) error {
	switch {
	case s == nil || s.Linux == nil || s.Process == nil || s.Root == nil:
		return fmt.Errorf("specification without root, process or Linux part: %w", errdefs.ErrInvalidArgument)
	case len(s.Linux.NetDevices) > 0:
		return fmt.Errorf("network devices of the host: %w", errdefs.ErrNotImplemented)
	case s.Hooks != nil && hooks(s.Hooks) > 0:
		return fmt.Errorf("hooks: %w", errdefs.ErrNotImplemented)
	case s.Linux.IntelRdt != nil || s.Linux.Personality != nil || s.Linux.MemoryPolicy != nil || len(s.Linux.TimeOffsets) > 0:
		return fmt.Errorf("cache allocation, personality, memory policy or clock offsets: %w", errdefs.ErrNotImplemented)
	case s.Linux.MountLabel != "":
		return fmt.Errorf("SELinux label for mounts: %w", errdefs.ErrNotImplemented)
	}
	return checkProcess(s.Process)
}

func checkProcess(p *specs.Process) error {
	switch {
	case len(p.Args) == 0:
		return fmt.Errorf("no arguments: %w", errdefs.ErrInvalidArgument)
	case !filepath.IsAbs(p.Cwd):
		return fmt.Errorf("working directory %q is not absolute: %w", p.Cwd, errdefs.ErrInvalidArgument)
	case p.SelinuxLabel != "" || p.ApparmorProfile != "" && p.ApparmorProfile != "unconfined":
		return fmt.Errorf("SELinux label or AppArmor profile: %w", errdefs.ErrNotImplemented)
	case p.IOPriority != nil || p.Scheduler != nil || p.ExecCPUAffinity != nil:
		return fmt.Errorf("priority, scheduler or CPU affinity of a process: %w", errdefs.ErrNotImplemented)
	}
	for _, list := range [][]string{p.Args, p.Env} {
		for _, s := range list {
			if strings.ContainsRune(s, 0) {
				return fmt.Errorf("argument or environment with a zero byte: %w", errdefs.ErrInvalidArgument)
			}
		}
	}
	return nil
}

func hooks(h *specs.Hooks) int {
	return len(h.CreateRuntime) + len(h.CreateContainer) + len(h.StartContainer) + len(h.Poststart) + len(h.Poststop) + len(h.Prestart) //nolint:staticcheck // deprecated, but in use
}

// initPlan is everything that the container's first process does.
func (c *container) initPlan(rootPath string) (*plan, error) {
	p := newPlan()
	c.ns.enter(p)
	if c.ns.makes(unix.CLONE_NEWUTS) {
		if c.spec.Hostname != "" {
			p.add("set host name", unix.SYS_SETHOSTNAME, c.spec.Hostname, len(c.spec.Hostname))
		}
		if c.spec.Domainname != "" {
			p.add("set domain name", unix.SYS_SETDOMAINNAME, c.spec.Domainname, len(c.spec.Domainname))
		}
	}
	makeFileSystems(p, c.spec.Mounts)
	// Meanwhile our own thread builds the root, and finds the user's home there.
	home := p.readyFor(make([]byte, maxHome))
	env := c.spec.Process.Env
	if !hasHome(env) {
		p.known[homeComes] = home
		env = append(slices.Clone(env), homeComes)
	}
	c.enterRoot(p, rootPath)
	return p, c.program(c.spec.Process, env, true).become(p)
}

func (c *container) enterRoot(p *plan, path string) {
	p.add("enter root file system "+path, unix.SYS_CHDIR, path)
	for name, value := range c.spec.Linux.Sysctl {
		label := "set " + name
		open := p.add(label, unix.SYS_OPENAT, unix.AT_FDCWD, "/proc/sys/"+strings.ReplaceAll(name, ".", "/"), unix.O_WRONLY|unix.O_CLOEXEC, 0)
		p.keep(open, fdContext)
		p.add(label, unix.SYS_WRITE, fdContext, value, len(value))
		p.add(label, unix.SYS_CLOSE, fdContext)
	}
	// The old root comes to lie upon the new one, whence it is taken away.
	p.add("change root", unix.SYS_PIVOT_ROOT, ".", ".")
	p.add("keep unmounts from spreading", unix.SYS_MOUNT, "", ".", "", unix.MS_SLAVE|unix.MS_REC, "")
	p.add("detach old root", unix.SYS_UMOUNT2, ".", unix.MNT_DETACH)
	p.add("enter new root", unix.SYS_CHDIR, "/")
	if flags, ok := propagations()[strings.TrimPrefix(c.spec.Linux.RootfsPropagation, "r")]; ok {
		p.add("set propagation of root", unix.SYS_MOUNT, "", "/", "", flags|unix.MS_REC, "")
	}
}

func (c *container) program(process *specs.Process, env []string, first bool) program {
	return program{process: process, env: env, filter: c.filter, console: first}
}

// execPlan is everything that a process does which joins the container. It has a pidfd
// of the container's first one.
func (c *container) execPlan(process *specs.Process, env []string) (*plan, error) {
	p := newPlan()
	p.add("become undumpable", unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	if c.ns.all&unix.CLONE_NEWCGROUP != 0 {
		p.add("join cgroup namespace", unix.SYS_SETNS, fdExtra, unix.CLONE_NEWCGROUP)
	}
	if c.ns.ownUser() {
		p.add("join user namespace", unix.SYS_SETNS, fdExtra, unix.CLONE_NEWUSER)
		p.add("become root of user namespace", unix.SYS_SETRESGID, 0, 0, 0)
		p.add("become root of user namespace", unix.SYS_SETRESUID, 0, 0, 0)
		p.add("become undumpable", unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	}
	p.add("join mount namespace", unix.SYS_SETNS, fdExtra, unix.CLONE_NEWNS)
	return p, c.program(process, env, false).become(p)
}

// build makes the root file system and settles the limits of the first process, which
// waits.
func (c *container) build(b monitor.Blueprint, rootPath string) error {
	if err := c.init.await(); err != nil {
		return err
	}
	if err := unix.Setns(int(c.init.pidfd.Fd()), unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("enter mount namespace: %w", err)
	}
	r := &rootfs{spec: c.spec, bundle: b.Bundle, path: rootPath, init: c.init, ns: c.ns}
	if err := r.build(b.Mount); err != nil {
		return err
	}
	if err := constrain(c.init.pid, c.spec.Process); err != nil {
		return err
	}
	if err := c.init.proceed(r.home); err != nil {
		return err
	}
	return c.init.await()
}

// constrain sets what a process has that is neither of its cgroup nor of its user.
func constrain(pid int, p *specs.Process) error {
	known := rlimits()
	for _, l := range p.Rlimits {
		resource, ok := known[l.Type]
		if !ok {
			return fmt.Errorf("limit %q: %w", l.Type, errdefs.ErrInvalidArgument)
		}
		if err := unix.Prlimit(pid, resource, &unix.Rlimit{Cur: l.Soft, Max: l.Hard}, nil); err != nil {
			return fmt.Errorf("set %s to %d and %d: %w", l.Type, l.Soft, l.Hard, err)
		}
	}
	if p.OOMScoreAdj == nil {
		return nil
	}
	value := strconv.Itoa(*p.OOMScoreAdj)
	if err := os.WriteFile("/proc/"+strconv.Itoa(pid)+"/oom_score_adj", []byte(value), 0); err != nil {
		return fmt.Errorf("set oom_score_adj to %s: %w", value, errnoOf(err))
	}
	return nil
}

func rlimits() map[string]int {
	return map[string]int{
		"RLIMIT_CPU": unix.RLIMIT_CPU, "RLIMIT_FSIZE": unix.RLIMIT_FSIZE, "RLIMIT_DATA": unix.RLIMIT_DATA,
		"RLIMIT_STACK": unix.RLIMIT_STACK, "RLIMIT_CORE": unix.RLIMIT_CORE, "RLIMIT_RSS": unix.RLIMIT_RSS,
		"RLIMIT_NPROC": unix.RLIMIT_NPROC, "RLIMIT_NOFILE": unix.RLIMIT_NOFILE, "RLIMIT_MEMLOCK": unix.RLIMIT_MEMLOCK,
		"RLIMIT_AS": unix.RLIMIT_AS, "RLIMIT_LOCKS": unix.RLIMIT_LOCKS, "RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING,
		"RLIMIT_MSGQUEUE": unix.RLIMIT_MSGQUEUE, "RLIMIT_NICE": unix.RLIMIT_NICE, "RLIMIT_RTPRIO": unix.RLIMIT_RTPRIO,
		"RLIMIT_RTTIME": unix.RLIMIT_RTTIME,
	}
}

// close lets go of the container's first process.
func (c *container) close() {
	if c.pidfd != nil {
		c.pidfd.Close()
		c.pidfd = nil
	}
	if c.init != nil {
		c.init.abort()
		c.init = nil
	}
}

// gone gives an error of a container without processes its kind.
func gone(err error) error {
	if errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("%w: %w", errdefs.ErrFailedPrecondition, err)
	}
	return err
}
