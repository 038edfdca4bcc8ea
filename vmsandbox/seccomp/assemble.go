package seccomp

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Offsets in struct seccomp_data.
const (
	offNumber = 0
	offArch   = 4
	offArgs   = 16
)

const (
	opLoad  = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	opAnd   = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
	opJump  = unix.BPF_JMP | unix.BPF_JA
	opEqual = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	opAbove = unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K
	opFrom  = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
	opRet   = unix.BPF_RET | unix.BPF_K
)

type program = []unix.SockFilter

func load(offset uint32) unix.SockFilter { return unix.SockFilter{Code: opLoad, K: offset} }
func ret(value uint32) unix.SockFilter   { return unix.SockFilter{Code: opRet, K: value} }

// jump tests, and skips so many instructions.
func jump(op uint16, k uint32, yes, no int) unix.SockFilter {
	return unix.SockFilter{Code: op, K: k, Jt: uint8(yes), Jf: uint8(no)}
}

// choose runs yes if the test holds, or else no.
func choose(op uint16, k uint32, yes, no program) program {
	if len(no) <= 255 {
		return slices.Concat(program{jump(op, k, len(no), 0)}, no, yes)
	}
	return slices.Concat(program{jump(op, k, 0, 1), {Code: opJump, K: uint32(len(no))}}, no, yes)
}

// assemble makes the whole program. An architecture that has no section is killed.
func assemble(sections []section) (program, error) {
	p := program{ret(unix.SECCOMP_RET_KILL_THREAD)}
	for _, s := range slices.Backward(sections) {
		body := append(program{load(offNumber)}, search(s.ranges())...)
		p = choose(opEqual, s.arch, body, p)
	}
	p = append(program{load(offArch)}, p...)
	if len(p) > maxProgram {
		return nil, fmt.Errorf("%d instructions, of which the kernel takes %d: %w", len(p), maxProgram, errdefs.ErrInvalidArgument)
	}
	return p, nil
}

// span is what happens to the numbers from one on, up to the next span.
type span struct {
	from uint32
	code program
}

// ranges covers all numbers.
func (s section) ranges() []span {
	bounds := slices.SortedFunc(slices.Values(s.above), func(a, b bound) int { return cmp.Compare(a.from, b.from) })
	numbers := slices.Sorted(maps.Keys(s.entries))
	var out []span
	add := func(from uint32, code program) {
		switch n := len(out); {
		case n > 0 && slices.Equal(out[n-1].code, code):
		case n > 0 && out[n-1].from == from:
			out[n-1].code = code
			if n > 1 && slices.Equal(out[n-2].code, code) {
				out = out[:n-1]
			}
		default:
			out = append(out, span{from, code})
		}
	}
	otherwise := func(n uint32) uint32 {
		value := s.fallback
		for _, b := range bounds {
			if b.from <= n {
				value = b.ret
			}
		}
		return value
	}
	for _, b := range bounds {
		for len(numbers) > 0 && numbers[0] < b.from {
			add(numbers[0], s.entries[numbers[0]].code(s.fallback))
			add(numbers[0]+1, program{ret(otherwise(numbers[0] + 1))})
			numbers = numbers[1:]
		}
		add(b.from, program{ret(b.ret)})
	}
	for _, n := range numbers {
		add(n, s.entries[n].code(s.fallback))
		add(n+1, program{ret(otherwise(n + 1))})
	}
	return out
}

// search finds the span of the number in the accumulator.
func search(spans []span) program {
	if len(spans) == 1 {
		return spans[0].code
	}
	middle := len(spans) / 2
	return choose(opFrom, spans[middle].from, search(spans[middle:]), search(spans[:middle]))
}

// code answers for one number.
func (e entry) code(fallback uint32) program {
	var p program
	for _, r := range e.rules {
		p = append(p, r.code(e.wide)...)
		if len(r.conditions) == 0 {
			return p
		}
	}
	return append(p, ret(fallback))
}

// next stands for a jump to the end of a rule.
const next = ^uint32(0)

// code answers if all conditions are met, and goes on behind itself otherwise.
func (r rule) code(wide bool) program {
	p := program{ret(r.ret)}
	for _, c := range slices.Backward(r.conditions) {
		p = operand{c, wide}.compare(p, program{{Code: opJump, K: next}})
	}
	for i := range p {
		if p[i].Code == opJump && p[i].K == next {
			p[i].K = uint32(len(p) - i - 1)
		}
	}
	return p
}

// operand is one side of a comparison with an argument.
type operand struct {
	specs.LinuxSeccompArg
	wide bool
}

func (o operand) low() uint32  { return offArgs + 8*uint32(o.Index) }
func (o operand) high() uint32 { return o.low() + 4 }

// compare makes the code of a condition from what comes after it.
func (o operand) compare(yes, no program) program {
	switch o.Op {
	case specs.OpEqualTo:
		return o.equal(o.Value, ^uint64(0), yes, no)
	case specs.OpNotEqual:
		return o.equal(o.Value, ^uint64(0), no, yes)
	case specs.OpMaskedEqual:
		return o.equal(o.ValueTwo, o.Value, yes, no)
	case specs.OpGreaterThan:
		return o.above(opAbove, yes, no)
	case specs.OpGreaterEqual:
		return o.above(opFrom, yes, no)
	case specs.OpLessThan:
		return o.above(opFrom, no, yes)
	}
	return o.above(opAbove, no, yes) // at most
}

// equal compares the masked argument.
func (o operand) equal(value, mask uint64, yes, no program) program {
	half := func(offset, value, mask uint32, yes program) program {
		p := program{load(offset)}
		if mask != ^uint32(0) {
			p = append(p, unix.SockFilter{Code: opAnd, K: mask})
		}
		return append(p, choose(opEqual, value&mask, yes, no)...)
	}
	p := half(o.low(), uint32(value), uint32(mask), yes)
	if o.wide {
		p = half(o.high(), uint32(value>>32), uint32(mask>>32), p)
	}
	return p
}

// above compares by the operation for the lower half.
func (o operand) above(op uint16, yes, no program) program {
	low := append(program{load(o.low())}, choose(op, uint32(o.Value), yes, no)...)
	if !o.wide {
		return low
	}
	high := uint32(o.Value >> 32)
	return append(program{load(o.high())}, choose(opAbove, high, yes, choose(opEqual, high, low, no))...)
}
