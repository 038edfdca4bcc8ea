package executor

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// carryOut runs a plan in a process of its own until it ends.
func carryOut(t *testing.T, p *plan, extra ...*os.File) error {
	t.Helper()
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	must(t, err)
	defer null.Close()
	cg, err := makeCgroup(node.cgroup, "/plan")
	must(t, err)
	defer func() { must(t, cg.remove()) }()
	dir, err := cg.open()
	must(t, err)
	defer dir.Close()
	s, err := node.executor.start(launch{plan: p, stdio: [3]*os.File{null, null, null}, extra: extra, cgroup: dir})
	must(t, err)
	defer s.close()
	for {
		if err := s.await(); err != nil {
			if errors.Is(err, errdefs.ErrUnavailable) {
				return nil // it ended
			}
			return err
		}
		must(t, s.proceed(""))
	}
}

func TestPlan(t *testing.T) {
	for name, c := range map[string]struct {
		make func(*plan)
		want string
	}{
		"nothing":        {func(*plan) {}, ""},
		"a failure":      {func(p *plan) { p.add("look", unix.SYS_CHDIR, "/no/such") }, "look: no such file or directory"},
		"said to fail":   {func(p *plan) { p.fail("enough", unix.ENOMEM) }, "enough: cannot allocate memory"},
		"tolerated":      {func(p *plan) { p.tolerate(p.add("look", unix.SYS_CHDIR, "/no/such")); p.fail("end", unix.EIO) }, "end: input/output error"},
		"tolerated kind": {func(p *plan) { p.tolerate(p.add("look", unix.SYS_CHDIR, "/no/such"), unix.ENOENT) }, ""},
		"another kind":   {func(p *plan) { p.tolerate(p.add("look", unix.SYS_CHDIR, "/no/such"), unix.EACCES) }, "look: no such file or directory"},
		"jump on success": {func(p *plan) {
			r := p.add("look", unix.SYS_CHDIR, "/")
			p.fail("not here", unix.EIO)
			p.success(r, p.next())
		}, ""},
		"jump on failure": {func(p *plan) {
			r := p.add("look", unix.SYS_CHDIR, "/no/such")
			p.fail("not here", unix.EIO)
			p.failure(r, p.next())
		}, ""},
		"a result": {func(p *plan) {
			open := p.add("open", unix.SYS_OPENAT, unix.AT_FDCWD, "/", unix.O_PATH|unix.O_CLOEXEC, 0)
			p.keep(open, 30)
			p.add("enter", unix.SYS_FCHDIR, 30)
			p.add("close", unix.SYS_CLOSE, 30)
			p.add("close again", unix.SYS_CLOSE, 30)
		}, "close again: bad file descriptor"},
		"nothing open but what it was given": {func(p *plan) { p.add("close", unix.SYS_CLOSE, fdExtra) }, "close: bad file descriptor"},
		"set": {func(p *plan) {
			at := p.set(0, unix.SYS_CHDIR)
			r := p.add("look", unix.SYS_GETPID, "/no/such")
			p.ops[at].args[0] = r.address()
		}, "look: no such file or directory"},
		"a program": {func(p *plan) { p.add("exec", unix.SYS_EXECVE, "/no/such", vector{"x"}, vector{}) }, "exec: no such file or directory"},
		"stages":    {func(p *plan) { p.ready(); p.ready(); p.fail("end", unix.EIO) }, "end: input/output error"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlan()
			c.make(p)
			err := carryOut(t, p)
			if c.want == "" && err != nil || c.want != "" && (err == nil || err.Error() != c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

func TestPlanTooLarge(t *testing.T) {
	p := newPlan()
	for range maxOps + 1 {
		p.add("", unix.SYS_GETPID)
	}
	if _, err := p.file(); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("too many operations: %v", err)
	}
	p = newPlan()
	p.add("", unix.SYS_GETPID, strings.Repeat("x", planRoom))
	if _, err := p.file(); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("too much data: %v", err)
	}
}

func TestLimits(t *testing.T) {
	i, u := func(v int64) *int64 { return &v }, func(v uint64) *uint64 { return &v }
	for name, c := range map[string]struct {
		r    specs.LinuxResources
		want string
		kind error
	}{
		"nothing": {},
		"processor": {r: specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: u(1024), Quota: i(50000), Period: u(100000), Cpus: "0-1", Mems: "0"}},
			want: "cpu.weight=39 cpu.max=50000 100000 cpuset.cpus=0-1 cpuset.mems=0"},
		"no quota":         {r: specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: i(-1), Shares: u(2)}}, want: "cpu.weight=1 cpu.max=max"},
		"memory":           {r: specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: i(1000), Swap: i(1500)}}, want: "memory.max=1000 memory.swap.max=500"},
		"no swap":          {r: specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: i(1000), Swap: i(1000)}}, want: "memory.max=1000 memory.swap.max=0"},
		"memory unlimited": {r: specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: i(-1)}}, want: "memory.max=max memory.swap.max=max"},
		"less with swap":   {r: specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: i(1000), Swap: i(10)}}, kind: errdefs.ErrInvalidArgument},
		"swap alone":       {r: specs.LinuxResources{Memory: &specs.LinuxMemory{Swap: i(10)}}, kind: errdefs.ErrInvalidArgument},
		"others": {r: specs.LinuxResources{Pids: &specs.LinuxPids{Limit: i(10)}, HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 0}},
			Unified: map[string]string{"memory.oom.group": "1", "memory.high": "5"}}, want: "pids.max=10 hugetlb.2MB.max=0 memory.high=5 memory.oom.group=1"},
		"a path":       {r: specs.LinuxResources{Unified: map[string]string{"../x.y": "1"}}, kind: errdefs.ErrInvalidArgument},
		"block device": {r: specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{}}, kind: errdefs.ErrNotImplemented},
	} {
		t.Run(name, func(t *testing.T) {
			list, err := limits(&c.r)
			var got []string
			for _, s := range list {
				got = append(got, s.file+"="+s.value)
			}
			if strings.Join(got, " ") != c.want || !errors.Is(err, c.kind) {
				t.Errorf("%q, %v; want %q, %v", got, err, c.want, c.kind)
			}
		})
	}
}

// TestDeviceProgram asks the kernel, which verifies what it loads, about nodes.
func TestDeviceProgram(t *testing.T) {
	n := func(v int64) *int64 { return &v }
	null, zero := specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: n(1), Minor: n(3), Access: "rw"}, specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: n(1), Minor: n(5)}
	none, all := specs.LinuxDeviceCgroup{Access: "rwm"}, specs.LinuxDeviceCgroup{Allow: true, Type: "a", Access: "rwm"}
	noWrite := specs.LinuxDeviceCgroup{Type: "c", Major: n(1), Minor: n(3), Access: "w"}
	block := specs.LinuxDeviceCgroup{Allow: true, Type: "b"}
	for name, c := range map[string]struct {
		rules []specs.LinuxDeviceCgroup
		want  string // of null read, null written, zero read
	}{
		"none":             {[]specs.LinuxDeviceCgroup{none}, "---"},
		"no rules":         {nil, "---"},
		"all":              {[]specs.LinuxDeviceCgroup{none, all}, "rwr"},
		"one":              {[]specs.LinuxDeviceCgroup{none, null}, "rw-"},
		"the other":        {[]specs.LinuxDeviceCgroup{none, zero}, "--r"},
		"all but to write": {[]specs.LinuxDeviceCgroup{all, noWrite}, "r-r"},
		"the last counts":  {[]specs.LinuxDeviceCgroup{null, zero, none}, "---"},
		"of another type":  {[]specs.LinuxDeviceCgroup{none, block}, "---"},
	} {
		t.Run(name, func(t *testing.T) {
			cg, err := makeCgroup(node.cgroup, "/devices")
			must(t, err)
			defer func() { must(t, cg.remove()) }()
			must(t, cg.controlDevices(c.rules))
			dir, err := cg.open()
			must(t, err)
			defer dir.Close()
			got := ""
			for i, file := range []string{"/dev/null", "/dev/null", "/dev/zero"} {
				p := newPlan()
				flags := []int{unix.O_RDONLY, unix.O_WRONLY, unix.O_RDONLY}[i]
				p.add("open", unix.SYS_OPENAT, unix.AT_FDCWD, file, flags, 0)
				s, err := node.executor.start(launch{plan: p, stdio: [3]*os.File{dir, dir, dir}, cgroup: dir})
				must(t, err)
				err = s.await()
				s.close()
				switch {
				case errors.Is(err, unix.EPERM):
					got += "-"
				case errors.Is(err, errdefs.ErrUnavailable):
					got += string("rwr"[i])
				default:
					t.Fatal(err)
				}
			}
			if got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
	if _, err := deviceProgram([]specs.LinuxDeviceCgroup{{Type: "x"}}); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("a type: %v", err)
	}
}
