package executor

import (
	"encoding/binary"
	"fmt"
	"os"
	"unsafe"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Where a plan lies in the memory of the stub, as in stub/stub.c.
const (
	planBase = 0x10000000
	planRoom = 8 << 20
	// planData is where data begins, after the operations, so that their addresses are
	// known while they are added.
	planData = planBase + 0x20000
	planHead = 16
	opSize   = 80
	maxOps   = (planData - planBase - planHead) / opSize
)

// What the stub knows beside system calls.
const (
	nrSet  = 0x10000
	nrFail = 0x10001
	nrCopy = 0x10002

	flagNonzero = 1
	flagBranch  = 2
)

// op is one operation of the stub. Jumps are relative; 0 is the next operation on
// success and the end of the process on failure.
type op struct {
	nr, flags            uint32
	onSuccess, onFailure uint32
	only                 uint32
	_                    uint32
	out                  uint64
	args                 [6]uint64
}

// plan is a list of system calls with what they point to, for the stub.
type plan struct {
	ops    []op
	labels []string // what each operation is for
	data   []byte
	known  map[string]uint64 // addresses of strings
}

// ref names an operation of a plan.
type ref int

func newPlan() *plan { return &plan{known: make(map[string]uint64)} }

// add appends a system call. An argument is an int, uint32, uint64 or uintptr, or a
// string, []byte or vector, whose address it becomes.
func (p *plan) add(label string, nr uintptr, args ...any) ref {
	o := op{nr: uint32(nr)}
	for i, a := range args {
		o.args[i] = p.value(a)
	}
	p.ops = append(p.ops, o)
	p.labels = append(p.labels, label)
	return ref(len(p.ops) - 1)
}

// vector is a list of strings, as execve(2) wants it.
type vector []string

func (p *plan) value(a any) uint64 {
	switch v := a.(type) {
	case int:
		return uint64(v)
	case uint32:
		return uint64(v)
	case uint64:
		return v
	case uintptr:
		return uint64(v)
	case string:
		return p.text(v)
	case []byte:
		return p.put(v) // not shared: it may be written to
	case vector:
		list := make([]byte, 0, 8*(len(v)+1))
		for _, s := range v {
			list = binary.NativeEndian.AppendUint64(list, p.text(s))
		}
		return p.put(binary.NativeEndian.AppendUint64(list, 0))
	}
	panic(fmt.Sprintf("plan: argument of type %T", a))
}

func (p *plan) text(s string) uint64 {
	at, ok := p.known[s]
	if !ok {
		at = p.put(append([]byte(s), 0))
		p.known[s] = at
	}
	return at
}

// put adds data and returns its address, a multiple of 8.
func (p *plan) put(b []byte) uint64 {
	for len(p.data)%8 != 0 {
		p.data = append(p.data, 0)
	}
	at := planData + uint64(len(p.data))
	p.data = append(p.data, b...)
	return at
}

// address is where an operation will lie.
func (r ref) address() uint64 { return planBase + planHead + uint64(r)*opSize }

// argument is where an argument of an operation will lie.
func (r ref) argument(i int) uint64 { return r.address() + 32 + uint64(i)*8 }

// into makes the result of r an argument of a later operation.
func (p *plan) into(r, later ref, i int) { p.ops[r].out = later.argument(i) }

// tolerate goes on after a failure of r, with any of errnos: none is any.
func (p *plan) tolerate(r ref, errno ...unix.Errno) {
	p.ops[r].onFailure = 1
	if len(errno) > 0 {
		p.ops[r].only = uint32(errno[0])
	}
}

// next is the operation that will be added next.
func (p *plan) next() ref { return ref(len(p.ops)) }

// success and failure make r go on at target, which comes later.
func (p *plan) success(r, target ref) { p.ops[r].onSuccess = uint32(target - r) }
func (p *plan) failure(r, target ref) { p.ops[r].onFailure = uint32(target - r) }

// set stores a value while the plan is carried out.
func (p *plan) set(at uint64, value any) ref { return p.add("", nrSet, at, value) }

// keep gives the descriptor that r returns a number of its own.
func (p *plan) keep(r ref, fd int) {
	label := p.labels[r]
	move := p.add(label, unix.SYS_DUP3, 0, fd, unix.O_CLOEXEC)
	p.into(r, move, 0)
	note := p.add("", nrCopy, 0, move.argument(0))
	drop := p.add(label, unix.SYS_CLOSE, 0)
	p.ops[note].args[0] = drop.argument(0)
}

// fail ends the process with an error.
func (p *plan) fail(label string, errno unix.Errno) ref { return p.add(label, nrFail, int(errno)) }

// file returns the plan as a file, ready to be mapped.
func (p *plan) file() (*os.File, error) {
	if len(p.ops) > maxOps || planData-planBase+len(p.data) > planRoom {
		return nil, fmt.Errorf("make plan: %d operations and %d bytes: %w", len(p.ops), len(p.data), errdefs.ErrInvalidArgument)
	}
	fd, err := unix.MemfdCreate("plan", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make plan: %w", err)
	}
	f := os.NewFile(uintptr(fd), "plan")
	head := make([]byte, planHead, planHead+len(p.ops)*opSize)
	binary.NativeEndian.PutUint64(head, uint64(len(p.ops)))
	if len(p.ops) > 0 {
		head = append(head, unsafe.Slice((*byte)(unsafe.Pointer(&p.ops[0])), len(p.ops)*opSize)...)
	}
	if _, err = f.WriteAt(head, 0); err == nil {
		_, err = f.WriteAt(append(p.data, 0), planData-planBase)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("write plan: %w", err)
	}
	return f, nil
}

// label says what operation i was for.
func (p *plan) label(i uint32) string {
	if int(i) >= len(p.labels) {
		return "map plan"
	}
	return p.labels[i]
}
