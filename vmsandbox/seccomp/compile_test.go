package seccomp

import (
	"errors"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// data is what a filter is asked about.
type data struct {
	number, arch uint32
	args         [6]uint64
}

// run executes a program as the kernel does.
func run(t *testing.T, p program, d data) uint32 {
	t.Helper()
	word := func(offset uint32) uint32 {
		switch {
		case offset == offNumber:
			return d.number
		case offset == offArch:
			return d.arch
		case offset >= offArgs && offset < offArgs+48 && offset%4 == 0:
			return uint32(d.args[(offset-offArgs)/8] >> (8 * (offset % 8)))
		}
		t.Fatalf("load at %d", offset)
		return 0
	}
	var a uint32
	for i := 0; i < len(p); i++ {
		in := p[i]
		test := false
		switch in.Code {
		case opLoad:
			a = word(in.K)
			continue
		case opAnd:
			a &= in.K
			continue
		case opRet:
			return in.K
		case opJump:
			i += int(in.K)
			continue
		case opEqual:
			test = a == in.K
		case opAbove:
			test = a > in.K
		case opFrom:
			test = a >= in.K
		case unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K:
			test = a&in.K != 0
		default:
			t.Fatalf("instruction %d: code %#x", i, in.Code)
		}
		if test {
			i += int(in.Jt)
		} else {
			i += int(in.Jf)
		}
	}
	t.Fatal("program has no end")
	return 0
}

func compile(t *testing.T, p *specs.LinuxSeccomp) program {
	t.Helper()
	f, err := Compile(p)
	if err != nil {
		t.Fatal(err)
	}
	return f.Program
}

const (
	allow = unix.SECCOMP_RET_ALLOW
	eperm = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
)

func TestConditions(t *testing.T) {
	const big = 1 << 40
	for _, c := range []struct {
		op         specs.LinuxSeccompOperator
		value, two uint64
		yes, no    []uint64
	}{
		{specs.OpEqualTo, big + 5, 0, []uint64{big + 5}, []uint64{5, big, 2*big + 5}},
		{specs.OpNotEqual, big + 5, 0, []uint64{5, big, 2*big + 5}, []uint64{big + 5}},
		{specs.OpGreaterThan, big + 5, 0, []uint64{big + 6, 2 * big}, []uint64{big + 5, 6, big}},
		{specs.OpGreaterEqual, big + 5, 0, []uint64{big + 5, big + 6, 2 * big}, []uint64{big + 4, 6, big}},
		{specs.OpLessThan, big + 5, 0, []uint64{big + 4, 6, 0}, []uint64{big + 5, 2 * big}},
		{specs.OpLessEqual, big + 5, 0, []uint64{big + 5, 6, 0}, []uint64{big + 6, 2 * big}},
		{specs.OpMaskedEqual, big | 0xf0, big | 0x30, []uint64{big | 0x30, big | 0x1f3f&^0xc0}, []uint64{0x30, big | 0x70, big}},
	} {
		t.Run(string(c.op), func(t *testing.T) {
			p := compile(t, &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{{
				Names: []string{"personality"}, Action: specs.ActAllow,
				Args: []specs.LinuxSeccompArg{{Index: 2, Op: c.op, Value: c.value, ValueTwo: c.two}},
			}}})
			for want, values := range map[uint32][]uint64{allow: c.yes, eperm: c.no} {
				for _, v := range values {
					d := data{number: unix.SYS_PERSONALITY, arch: known()[0].audit, args: [6]uint64{2: v}}
					if got := run(t, p, d); got != want {
						t.Errorf("argument %#x: %#x, want %#x", v, got, want)
					}
				}
			}
		})
	}
}

func TestRules(t *testing.T) {
	one, enosys := uint(1), uint(unix.ENOSYS)
	p := compile(t, &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, DefaultErrnoRet: &one, Syscalls: []specs.LinuxSyscall{
		{Names: []string{"read", "write", "no_such_call"}, Action: specs.ActAllow},
		{Names: []string{"read"}, Action: specs.ActErrno, ErrnoRet: &enosys, Args: []specs.LinuxSeccompArg{{Index: 0, Op: specs.OpEqualTo, Value: 1}}},
		{Names: []string{"kill"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Index: 0, Op: specs.OpEqualTo, Value: 1}, {Index: 1, Op: specs.OpEqualTo, Value: 9}}},
		{Names: []string{"dup"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Index: 0, Op: specs.OpEqualTo, Value: 1}, {Index: 0, Op: specs.OpEqualTo, Value: 2}}},
		{Names: []string{"ptrace"}, Action: specs.ActTrap}, {Names: []string{"ptrace"}, Action: specs.ActAllow},
		{Names: []string{"clone3"}, Action: specs.ActErrno, ErrnoRet: &enosys},
	}})
	native := known()[0].audit
	for _, c := range []struct {
		name string
		d    data
		want uint32
	}{
		{"without condition", data{number: unix.SYS_WRITE, arch: native}, allow},
		{"a condition later does not matter", data{number: unix.SYS_READ, arch: native, args: [6]uint64{1}}, allow},
		{"both conditions", data{number: unix.SYS_KILL, arch: native, args: [6]uint64{1, 9}}, allow},
		{"one condition", data{number: unix.SYS_KILL, arch: native, args: [6]uint64{1, 15}}, eperm},
		{"one of two for an argument", data{number: unix.SYS_DUP, arch: native, args: [6]uint64{2}}, allow},
		{"the first of two", data{number: unix.SYS_PTRACE, arch: native}, unix.SECCOMP_RET_TRAP},
		{"an error of its own", data{number: unix.SYS_CLONE3, arch: native}, unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)},
		{"the default", data{number: unix.SYS_SETNS, arch: native}, eperm},
		{"newer than what is named", data{number: unix.SYS_CLONE3 + 1, arch: native}, unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)},
		{"another architecture", data{number: unix.SYS_READ, arch: known()[1].audit}, unix.SECCOMP_RET_KILL_THREAD},
	} {
		if got := run(t, p, c.d); got != c.want {
			t.Errorf("%s: %#x, want %#x", c.name, got, c.want)
		}
	}
}

func TestManyRules(t *testing.T) {
	var calls []specs.LinuxSyscall
	for i := range uint64(200) {
		calls = append(calls, specs.LinuxSyscall{Names: []string{"ioctl"}, Action: specs.ActAllow,
			Args: []specs.LinuxSeccompArg{{Index: 1, Op: specs.OpEqualTo, Value: i * 1000}}})
	}
	p := compile(t, &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: calls})
	for _, v := range []uint64{0, 1000, 199000} {
		if got := run(t, p, data{number: unix.SYS_IOCTL, arch: known()[0].audit, args: [6]uint64{1: v}}); got != allow {
			t.Errorf("%d: %#x", v, got)
		}
	}
	if got := run(t, p, data{number: unix.SYS_IOCTL, arch: known()[0].audit, args: [6]uint64{1: 5}}); got != eperm {
		t.Errorf("not listed: %#x", got)
	}
}

func TestRefused(t *testing.T) {
	for name, c := range map[string]struct {
		p    specs.LinuxSeccomp
		want error
	}{
		"action":   {specs.LinuxSeccomp{DefaultAction: "SCMP_ACT_X"}, errdefs.ErrInvalidArgument},
		"agent":    {specs.LinuxSeccomp{DefaultAction: specs.ActNotify}, errdefs.ErrNotImplemented},
		"flag":     {specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{"X"}}, errdefs.ErrInvalidArgument},
		"arch":     {specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Architectures: []specs.Arch{"X"}}, errdefs.ErrInvalidArgument},
		"operator": {specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: []string{"read"}, Action: specs.ActKill, Args: []specs.LinuxSeccompArg{{Op: "X"}}}}}, errdefs.ErrInvalidArgument},
		"argument": {specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: []string{"read"}, Action: specs.ActKill, Args: []specs.LinuxSeccompArg{{Index: 6, Op: specs.OpEqualTo}}}}}, errdefs.ErrInvalidArgument},
	} {
		if _, err := Compile(&c.p); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func TestCache(t *testing.T) {
	var c Cache
	profile := func() *specs.LinuxSeccomp {
		return &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{{Names: []string{"read"}, Action: specs.ActAllow}}}
	}
	first, err := c.Compile(profile())
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := c.Compile(profile()); again != first {
		t.Error("compiled again")
	}
	other := profile()
	other.DefaultAction = specs.ActKill
	if f, _ := c.Compile(other); f == first {
		t.Error("took one profile for another")
	}
}
