package executor

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"strings"
	"unsafe"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// everywhere are the devices that every container may use, and that it may make any
// node: using it is what is controlled.
func everywhere() []specs.LinuxDeviceCgroup {
	rule := func(kind string, major, minor int64, access string) specs.LinuxDeviceCgroup {
		r := specs.LinuxDeviceCgroup{Allow: true, Type: kind, Access: access}
		if major >= 0 {
			r.Major = &major
		}
		if minor >= 0 {
			r.Minor = &minor
		}
		return r
	}
	rules := []specs.LinuxDeviceCgroup{rule("c", -1, -1, "m"), rule("b", -1, -1, "m")}
	for _, d := range ordinary() {
		rules = append(rules, rule("c", d.Major, d.Minor, "rwm"))
	}
	// The console, terminals and the makers of terminals.
	return append(rules, rule("c", 5, 1, "rwm"), rule("c", 5, 2, "rwm"), rule("c", 136, -1, "rwm"))
}

// The two instructions of eBPF's machine that are not in package unix.
const (
	bpfExit   = 0x95 // BPF_JMP | BPF_EXIT
	bpfMovImm = 0xb7 // BPF_ALU64 | BPF_MOV | BPF_K
	bpfMovReg = 0xbc // BPF_ALU | BPF_MOV | BPF_X: 32 bits
	bpfAndImm = 0x54 // BPF_ALU | BPF_AND | BPF_K
	bpfShrImm = 0x74 // BPF_ALU | BPF_RSH | BPF_K
	bpfLoad   = 0x61 // BPF_LDX | BPF_MEM | BPF_W
	bpfJneImm = 0x56 // BPF_JMP32 | BPF_JNE | BPF_K
	bpfJneReg = 0x5e // BPF_JMP32 | BPF_JNE | BPF_X
)

// instruction is one of eBPF.
type instruction struct {
	code     uint8
	dst, src uint8
	off      int16
	imm      int32
}

// deviceProgram decides about the use of devices: registers 2 to 5 have the type, the
// access, the major and the minor number of what is asked for. The last rule that
// matches counts, so they are asked from behind; what none matches is refused.
func deviceProgram(rules []specs.LinuxDeviceCgroup) ([]instruction, error) {
	prog := []instruction{
		{code: bpfLoad, dst: 2, src: 1, off: 0},
		{code: bpfMovReg, dst: 3, src: 2},
		{code: bpfAndImm, dst: 2, imm: 0xffff},
		{code: bpfShrImm, dst: 3, imm: 16},
		{code: bpfLoad, dst: 4, src: 1, off: 4},
		{code: bpfLoad, dst: 5, src: 1, off: 8},
	}
	for i := len(rules) - 1; i >= 0; i-- {
		block, all, err := deviceRule(rules[i])
		if err != nil {
			return nil, err
		}
		prog = append(prog, block...)
		if all { // nothing gets past it
			return prog, nil
		}
	}
	return append(prog, answer(false)...), nil
}

func answer(allow bool) []instruction {
	value := int32(0)
	if allow {
		value = 1
	}
	return []instruction{{code: bpfMovImm, dst: 0, imm: value}, {code: bpfExit}}
}

// deviceRule is one rule: tests that skip it, and its answer. all: it matches anything.
func deviceRule(r specs.LinuxDeviceCgroup) (block []instruction, all bool, err error) {
	kind, ok := map[string]int32{"": 0, "a": 0, "b": unix.BPF_DEVCG_DEV_BLOCK, "c": unix.BPF_DEVCG_DEV_CHAR}[r.Type]
	if !ok {
		return nil, false, fmt.Errorf("rule for devices of type %q: %w", r.Type, errdefs.ErrInvalidArgument)
	}
	access := int32(0)
	for _, c := range r.Access {
		bit, ok := map[rune]int32{'r': unix.BPF_DEVCG_ACC_READ, 'w': unix.BPF_DEVCG_ACC_WRITE, 'm': unix.BPF_DEVCG_ACC_MKNOD}[c]
		if !ok {
			return nil, false, fmt.Errorf("rule for devices with access %q: %w", r.Access, errdefs.ErrInvalidArgument)
		}
		access |= bit
	}
	const everything = unix.BPF_DEVCG_ACC_READ | unix.BPF_DEVCG_ACC_WRITE | unix.BPF_DEVCG_ACC_MKNOD
	if access == 0 {
		access = everything
	}
	var tests []instruction
	if kind != 0 {
		tests = append(tests, instruction{code: bpfJneImm, dst: 2, imm: kind})
	}
	if access != everything {
		// Allowing needs all that is asked for, refusing some of it.
		if r.Allow {
			tests = append(tests, instruction{code: bpfMovReg, dst: 1, src: 3}, instruction{code: bpfAndImm, dst: 1, imm: access},
				instruction{code: bpfJneReg, dst: 1, src: 3})
		} else {
			tests = append(tests, instruction{code: bpfMovReg, dst: 1, src: 3}, instruction{code: bpfAndImm, dst: 1, imm: access},
				instruction{code: 0x16, dst: 1, imm: 0}) // BPF_JMP32 | BPF_JEQ | BPF_K
		}
	}
	if r.Major != nil && *r.Major >= 0 {
		tests = append(tests, instruction{code: bpfJneImm, dst: 4, imm: int32(*r.Major)})
	}
	if r.Minor != nil && *r.Minor >= 0 {
		tests = append(tests, instruction{code: bpfJneImm, dst: 5, imm: int32(*r.Minor)})
	}
	block = append(tests, answer(r.Allow)...)
	for i := range tests {
		switch block[i].code {
		case bpfJneImm, bpfJneReg, 0x16:
			block[i].off = int16(len(block) - i - 1)
		}
	}
	return block, len(tests) == 0, nil
}

func encode(prog []instruction) []byte {
	var b []byte
	for _, i := range prog {
		b = append(b, i.code, i.dst|i.src<<4)
		b = binary.NativeEndian.AppendUint16(b, uint16(i.off))
		b = binary.NativeEndian.AppendUint32(b, uint32(i.imm))
	}
	return b
}

// controlDevices attaches rules to a cgroup. They hold until it is removed.
func (c cgroup) controlDevices(rules []specs.LinuxDeviceCgroup) error {
	prog, err := deviceProgram(rules)
	if err != nil {
		return err
	}
	if len(rules) > 0 && rules[len(rules)-1].Allow && len(prog) == 8 {
		return nil // everything is allowed, as without a program
	}
	fd, err := loadProgram(prog)
	if err != nil {
		return fmt.Errorf("load program for devices: %w", err)
	}
	defer unix.Close(fd)
	dir, err := unix.Open(string(c), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open cgroup: %w", err)
	}
	defer unix.Close(dir)
	attr := struct{ target, program, kind, flags uint32 }{uint32(dir), uint32(fd), unix.BPF_CGROUP_DEVICE, unix.BPF_F_ALLOW_MULTI}
	if _, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_ATTACH, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr)); errno != 0 {
		return fmt.Errorf("attach program for devices: %w", errno)
	}
	return nil
}

// loadProgram is BPF_PROG_LOAD. What the kernel's verifier says becomes part of the
// error.
func loadProgram(prog []instruction) (int, error) {
	code, license := encode(prog), []byte("Apache\x00")
	log := make([]byte, 4096)
	attr := struct {
		kind, count     uint32
		code, license   uint64
		level, size     uint32
		log             uint64
		version, flags  uint32
		name            [16]byte
		ifindex, attach uint32
	}{kind: unix.BPF_PROG_TYPE_CGROUP_DEVICE, count: uint32(len(prog)), attach: unix.BPF_CGROUP_DEVICE}
	copy(attr.name[:], "devices")
	var pin runtime.Pinner
	defer pin.Unpin()
	for _, b := range [][]byte{code, license, log} {
		pin.Pin(&b[0])
	}
	attr.code, attr.license = uint64(uintptr(unsafe.Pointer(&code[0]))), uint64(uintptr(unsafe.Pointer(&license[0])))
	unmask, err := maskSignals()
	if err != nil {
		return -1, err
	}
	defer unmask()
	load := func() (uintptr, unix.Errno) {
		fd, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_LOAD, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
		return fd, errno
	}
	fd, errno := load()
	if errno == unix.EINVAL || errno == unix.EACCES { // again, for the reason
		attr.level, attr.size, attr.log = 1, uint32(len(log)), uint64(uintptr(unsafe.Pointer(&log[0])))
		fd, errno = load()
	}
	if errno != 0 {
		return -1, fmt.Errorf("%w: %s", errno, strings.TrimSpace(unix.ByteSliceToString(log)))
	}
	return int(fd), nil
}

// maskSignals keeps signals from this goroutine until they are unmasked. The verifier gives
// up with EAGAIN when its thread has one to take, and the Go runtime sends some to its own
// threads (SIGURG, for goroutines to make way).
func maskSignals() (unmask func(), err error) {
	runtime.LockOSThread()
	var all, old unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &all, &old); err != nil {
		runtime.UnlockOSThread()
		return nil, fmt.Errorf("mask signals: %w", err)
	}
	return func() {
		// A thread that cannot take signals again is not given back: it ends with its goroutine.
		if unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil) == nil {
			runtime.UnlockOSThread()
		}
	}, nil
}
