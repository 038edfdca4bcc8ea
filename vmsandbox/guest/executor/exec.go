package executor

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime/monitor"
)

// execution is one more process of a container, while it is started.
type execution struct {
	e       *Executor
	c       *container
	process *specs.Process
	stdio   [3]*os.File
	init    *os.File // pidfd of the container's first process
	pid     int      // of the same
}

func (x execution) run() (p monitor.Process, err error) {
	env := x.process.Env
	if !hasHome(env) {
		env = append(slices.Clone(env), x.home())
	}
	plan, err := x.c.execPlan(x.process, env)
	if err != nil {
		return p, err
	}
	var s *stub
	err = onThread(func() (err error) {
		// Of threads it is only the children that enter a PID namespace.
		const shared = unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWPID
		if flags := x.c.ns.all & shared; flags != 0 {
			if err := unix.Setns(int(x.init.Fd()), flags); err != nil {
				return fmt.Errorf("enter container: %w", gone(err))
			}
		}
		s, err = x.launch(plan)
		return err
	})
	if err != nil {
		return p, err
	}
	defer s.close()
	p, err = x.finish(s)
	if err != nil {
		s.abort()
	}
	return p, err
}

// home is found where the container's first process has its root.
func (x execution) home() string {
	fd, err := unix.Open("/proc/"+strconv.Itoa(x.pid)+"/root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "HOME=/"
	}
	r := root{fd}
	defer r.close()
	return homeOf(r, x.process.User.UID)
}

func (x execution) launch(p *plan) (*stub, error) {
	s, err := x.start(p, x.c.cgroup)
	if errors.Is(err, unix.EBUSY) {
		// The container has cgroups of its own making: its first process is in one of them.
		var other cgroup
		if other, err = x.c.cgroup.holding(x.pid, x.c.path); err == nil {
			s, err = x.start(p, other)
		}
	}
	return s, err
}

func (x execution) start(p *plan, c cgroup) (*stub, error) {
	dir, err := c.open()
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return x.e.start(launch{plan: p, stdio: x.stdio, extra: []*os.File{x.init}, cgroup: dir})
}

func (x execution) finish(s *stub) (p monitor.Process, err error) {
	if err := s.await(); err != nil {
		return p, gone(err)
	}
	if err := constrain(s.pid, x.process); err != nil {
		return p, err
	}
	if x.process.Terminal {
		if p.Terminal, err = s.terminal(); err != nil {
			return p, err
		}
	}
	p.Pid = s.pid
	if err = s.execute(); err != nil && p.Terminal != nil {
		p.Terminal.Close()
	}
	return p, err
}
