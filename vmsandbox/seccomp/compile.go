package seccomp

import (
	"fmt"
	"maps"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Filter is a compiled profile.
type Filter struct {
	Program []unix.SockFilter
	// Flags are those of seccomp(SECCOMP_SET_MODE_FILTER).
	Flags uint
}

// maxProgram is the kernel's BPF_MAXINSNS.
const maxProgram = 4096

// Compile compiles a profile; nil gives nil. System calls that are not known are left
// out. A profile that is wrong gives errdefs.ErrInvalidArgument, one that asks for an
// agent in user space errdefs.ErrNotImplemented.
func Compile(p *specs.LinuxSeccomp) (*Filter, error) {
	if p == nil {
		return nil, nil
	}
	fallback, err := action(p.DefaultAction, p.DefaultErrnoRet)
	if err != nil {
		return nil, fmt.Errorf("compile seccomp profile: default action: %w", err)
	}
	flags, err := flagBits(p.Flags)
	if err != nil {
		return nil, fmt.Errorf("compile seccomp profile: %w", err)
	}
	rules, err := translate(p.Syscalls, fallback)
	if err != nil {
		return nil, fmt.Errorf("compile seccomp profile: %w", err)
	}
	archs, err := architectures(p.Architectures)
	if err != nil {
		return nil, fmt.Errorf("compile seccomp profile: %w", err)
	}
	var sections []section
	for _, a := range archs {
		sections = append(sections, a.section(rules, p, fallback))
	}
	if sections[0].arch == unix.AUDIT_ARCH_X86_64 && !slices.ContainsFunc(archs, func(a architecture) bool { return a.first == x32Bit }) {
		// Numbers of another architecture, but for the one of a call that a tracer cancelled.
		sections[0].above = append(sections[0].above, bound{x32Bit, unix.SECCOMP_RET_KILL_THREAD}, bound{cancelled, fallback})
	}
	program, err := assemble(merge(sections))
	if err != nil {
		return nil, fmt.Errorf("compile seccomp profile: %w", err)
	}
	return &Filter{Program: program, Flags: flags}, nil
}

// action translates an action into what a filter returns for it.
func action(a specs.LinuxSeccompAction, errnoRet *uint) (uint32, error) {
	data := uint32(unix.EPERM)
	if errnoRet != nil {
		data = uint32(*errnoRet) & unix.SECCOMP_RET_DATA
	}
	switch a {
	case specs.ActKill, specs.ActKillThread:
		return unix.SECCOMP_RET_KILL_THREAD, nil
	case specs.ActKillProcess:
		return unix.SECCOMP_RET_KILL_PROCESS, nil
	case specs.ActTrap:
		return unix.SECCOMP_RET_TRAP, nil
	case specs.ActErrno:
		return unix.SECCOMP_RET_ERRNO | data, nil
	case specs.ActTrace:
		return unix.SECCOMP_RET_TRACE | data, nil
	case specs.ActAllow:
		return unix.SECCOMP_RET_ALLOW, nil
	case specs.ActLog:
		return unix.SECCOMP_RET_LOG, nil
	case specs.ActNotify:
		return 0, fmt.Errorf("action %s: %w", a, errdefs.ErrNotImplemented)
	}
	return 0, fmt.Errorf("action %q: %w", a, errdefs.ErrInvalidArgument)
}

func flagBits(flags []specs.LinuxSeccompFlag) (bits uint, err error) {
	for _, f := range flags {
		switch f {
		case "SECCOMP_FILTER_FLAG_TSYNC": // there is one thread
		case specs.LinuxSeccompFlagLog:
			bits |= unix.SECCOMP_FILTER_FLAG_LOG
		case specs.LinuxSeccompFlagSpecAllow:
			bits |= unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
		case specs.LinuxSeccompFlagWaitKillableRecv: // of filters with an agent
		default:
			return 0, fmt.Errorf("flag %q: %w", f, errdefs.ErrInvalidArgument)
		}
	}
	return bits, nil
}

// rule is what happens to a system call if all conditions are met.
type rule struct {
	name       string
	ret        uint32
	conditions []specs.LinuxSeccompArg
}

// translate makes a rule of each name. What the default does anyway is left out.
func translate(calls []specs.LinuxSyscall, fallback uint32) ([]rule, error) {
	var rules []rule
	for _, c := range calls {
		ret, err := action(c.Action, c.ErrnoRet)
		if err != nil {
			return nil, err
		}
		sets, err := conditionSets(c.Args)
		if err != nil {
			return nil, err
		}
		if ret == fallback {
			continue
		}
		for _, name := range c.Names {
			for _, set := range sets {
				rules = append(rules, rule{name: name, ret: ret, conditions: set})
			}
		}
	}
	return rules, nil
}

// conditionSets are alternatives. Conditions hold together, unless two are about one
// argument: then each is an alternative, as it has always been.
func conditionSets(args []specs.LinuxSeccompArg) ([][]specs.LinuxSeccompArg, error) {
	var seen [6]bool
	twice := false
	for _, a := range args {
		if a.Index >= uint(len(seen)) {
			return nil, fmt.Errorf("condition on argument %d: %w", a.Index, errdefs.ErrInvalidArgument)
		}
		if !slices.Contains(operators(), a.Op) {
			return nil, fmt.Errorf("operator %q: %w", a.Op, errdefs.ErrInvalidArgument)
		}
		twice = twice || seen[a.Index]
		seen[a.Index] = true
	}
	if !twice {
		return [][]specs.LinuxSeccompArg{args}, nil
	}
	var sets [][]specs.LinuxSeccompArg
	for _, a := range args {
		sets = append(sets, []specs.LinuxSeccompArg{a})
	}
	return sets, nil
}

func operators() []specs.LinuxSeccompOperator {
	return []specs.LinuxSeccompOperator{
		specs.OpEqualTo, specs.OpNotEqual, specs.OpMaskedEqual, specs.OpGreaterThan, specs.OpGreaterEqual, specs.OpLessThan, specs.OpLessEqual,
	}
}

// entry is what is decided about one number: an unconditional answer, or what the first
// rule says whose conditions are met.
type entry struct {
	rules []rule
	wide  bool // arguments have 64 bits
}

// section is what is decided for one architecture.
type section struct {
	arch     uint32 // as the kernel tells it
	entries  map[uint32]entry
	fallback uint32
	// above gives answers for the numbers from a bound on, below the next one.
	above []bound
}

// bound says that from a number on an answer is given to what has no entry.
type bound struct {
	from, ret uint32
}

// section applies the rules to an architecture.
func (a architecture) section(rules []rule, p *specs.LinuxSeccomp, fallback uint32) section {
	s := section{arch: a.audit, entries: make(map[uint32]entry), fallback: fallback}
	table := a.table()
	for _, r := range rules {
		if n, ok := table[r.name]; ok {
			s.add(n, r, a.wide)
		}
		if a.muxes {
			s.addMuxed(table, r)
		}
	}
	s.above = []bound{{a.first, fallback}}
	if last, ok := lastNamed(p.Syscalls, table); ok && !permissive(p.DefaultAction) {
		// Who wrote the profile did not know what came later: programs shall take it for a
		// kernel without those calls, and fall back to older ones.
		s.above = append(s.above, bound{last + 1, unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)})
	}
	return s
}

// add adds a rule for a number. One without conditions ends the matter.
func (s *section) add(n uint32, r rule, wide bool) {
	e := s.entries[n]
	if len(e.rules) > 0 && len(e.rules[0].conditions) == 0 {
		return
	}
	if len(r.conditions) == 0 {
		e.rules = nil
	}
	e.rules, e.wide = append(e.rules, r), wide
	s.entries[n] = e
}

// addMuxed adds a rule to the call that x86 has in place of, or beside, several.
func (s *section) addMuxed(table map[string]uint32, r rule) {
	for mux, list := range muxed() {
		i := slices.Index(list, r.name)
		if i <= 0 {
			continue
		}
		conditions := slices.DeleteFunc(slices.Clone(r.conditions), func(a specs.LinuxSeccompArg) bool { return a.Index == 0 })
		r.conditions = append(conditions, specs.LinuxSeccompArg{Index: 0, Value: uint64(i), Op: specs.OpEqualTo})
		s.add(table[mux], r, false)
	}
}

func permissive(a specs.LinuxSeccompAction) bool {
	return a == specs.ActAllow || a == specs.ActLog || a == specs.ActTrace
}

// lastNamed is the highest number of those that a profile names.
func lastNamed(calls []specs.LinuxSyscall, table map[string]uint32) (last uint32, ok bool) {
	for _, c := range calls {
		for _, name := range c.Names {
			if n, known := table[name]; known && (!ok || n > last) {
				last, ok = n, true
			}
		}
	}
	return last, ok
}

// merge joins sections that the kernel tells apart by the number alone (x86-64 and x32).
func merge(sections []section) []section {
	var out []section
	for _, s := range sections {
		i := slices.IndexFunc(out, func(o section) bool { return o.arch == s.arch })
		if i < 0 {
			out = append(out, s)
			continue
		}
		maps.Copy(out[i].entries, s.entries)
		out[i].above = append(out[i].above, s.above...)
	}
	return out
}
