package seccomp

import (
	"embed"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// architecture is a way to make system calls.
type architecture struct {
	name  specs.Arch
	file  string // its table
	audit uint32
	wide  bool   // arguments have 64 bits
	muxes bool   // it has socketcall and ipc
	first uint32 // lowest number
}

// known are the architectures that kernels for this one execute; the first is this one.
func known() []architecture {
	if runtime.GOARCH == "arm64" {
		return []architecture{
			{name: specs.ArchAARCH64, file: "aarch64", audit: unix.AUDIT_ARCH_AARCH64, wide: true},
			{name: specs.ArchARM, file: "arm", audit: unix.AUDIT_ARCH_ARM},
		}
	}
	return []architecture{
		{name: specs.ArchX86_64, file: "x86_64", audit: unix.AUDIT_ARCH_X86_64, wide: true},
		{name: specs.ArchX86, file: "x86", audit: unix.AUDIT_ARCH_I386, muxes: true},
		{name: specs.ArchX32, file: "x32", audit: unix.AUDIT_ARCH_X86_64, first: x32Bit},
	}
}

// x32Bit is in the numbers of x32, which is otherwise taken for x86-64.
const x32Bit = 1 << 30

// cancelled is the number of a system call that shall not be made any more.
const cancelled = ^uint32(0)

// architectures are this one and what a profile names beside. Those that no kernel for
// this one executes do not matter.
func architectures(names []specs.Arch) ([]architecture, error) {
	var out []architecture
	for i, a := range known() {
		if i == 0 || slices.Contains(names, a.name) {
			out = append(out, a)
		}
	}
	for _, name := range names {
		if !strings.HasPrefix(string(name), "SCMP_ARCH_") {
			return nil, fmt.Errorf("architecture %q: %w", name, errdefs.ErrInvalidArgument)
		}
	}
	return out, nil
}

//go:embed tables/*.txt
var tables embed.FS

// table maps names to numbers.
func (a architecture) table() map[string]uint32 {
	text, err := tables.ReadFile("tables/" + a.file + ".txt")
	if err != nil {
		panic(err) // it is part of the program
	}
	table := make(map[string]uint32, 512)
	for line := range strings.Lines(string(text)) {
		name, number, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		n, err := strconv.ParseUint(number, 10, 32)
		if err != nil {
			panic(err)
		}
		table[name] = uint32(n)
	}
	return table
}

// muxed are the calls of x86 that do what their first argument says: by their names,
// what the arguments 1, 2, … mean.
func muxed() map[string][]string {
	return map[string][]string{
		"socketcall": strings.Fields(`- socket bind connect listen accept getsockname getpeername socketpair send recv
			sendto recvfrom shutdown setsockopt getsockopt sendmsg recvmsg accept4 recvmmsg sendmmsg`),
		"ipc": strings.Fields(`- semop semget semctl semtimedop - - - - - - msgsnd msgrcv msgget msgctl - - - - - -
			shmat shmdt shmget shmctl`),
	}
}
