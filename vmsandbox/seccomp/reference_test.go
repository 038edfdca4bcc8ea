package seccomp

import (
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime/spec"
)

var update = flag.Bool("update", false, "compile the profiles with libseccomp")

// profiles are compared with what libseccomp makes of them. The default profile is that
// of the module as it is; its numbers are those that libseccomp 2.5.4 knows.
func profiles(t *testing.T) map[string]*specs.LinuxSeccomp {
	t.Helper()
	ordinary, err := spec.DefaultSeccomp(spec.DefaultCapabilities())
	if err != nil {
		t.Fatal(err)
	}
	powerful, err := spec.DefaultSeccomp(spec.AllCapabilities())
	if err != nil {
		t.Fatal(err)
	}
	arg := func(i uint, op specs.LinuxSeccompOperator, v, two uint64) specs.LinuxSeccompArg {
		return specs.LinuxSeccompArg{Index: i, Op: op, Value: v, ValueTwo: two}
	}
	x86 := []specs.Arch{specs.ArchX86_64, specs.ArchX86}
	return map[string]*specs.LinuxSeccomp{
		"default": ordinary, "powerful": powerful,
		"muxed": {DefaultAction: specs.ActErrno, Architectures: x86, Syscalls: []specs.LinuxSyscall{
			{Names: []string{"socket", "bind", "semop", "shmat"}, Action: specs.ActAllow},
		}},
		"denylist": {DefaultAction: specs.ActAllow, Architectures: x86, Syscalls: []specs.LinuxSyscall{
			{Names: []string{"mount", "umount2"}, Action: specs.ActErrno},
			{Names: []string{"kill"}, Action: specs.ActKillProcess, Args: []specs.LinuxSeccompArg{arg(0, specs.OpEqualTo, 1, 0), arg(1, specs.OpGreaterThan, 15, 0)}},
			{Names: []string{"ioctl"}, Action: specs.ActTrap, Args: []specs.LinuxSeccompArg{arg(1, specs.OpMaskedEqual, 0xff00ff00ff, 0x1200340056)}},
			{Names: []string{"lseek"}, Action: specs.ActLog, Args: []specs.LinuxSeccompArg{arg(1, specs.OpLessEqual, 1<<33, 0)}},
			{Names: []string{"dup2"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{arg(0, specs.OpNotEqual, 7, 0), arg(1, specs.OpGreaterEqual, 1<<32+3, 0)}},
		}},
	}
}

func TestAgainstLibseccomp(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("the reference was made on x86-64")
	}
	for name, p := range profiles(t) {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join("testdata", name+".bpf")
			if *update {
				reference(t, p, file)
			}
			want, ours := readProgram(t, file), compile(t, p)
			t.Logf("%d instructions, libseccomp has %d", len(ours), len(want))
			compare(t, p, ours, want)
		})
	}
}

// compare asks both about every number, with arguments around those of the conditions.
func compare(t *testing.T, p *specs.LinuxSeccomp, ours, want program) {
	values := []uint64{0, 1, 1 << 32, 1<<64 - 1}
	for _, c := range p.Syscalls {
		for _, a := range c.Args {
			values = append(values, a.Value, a.Value+1, a.Value-1, a.ValueTwo, a.ValueTwo|1<<44, a.Value|1<<35)
		}
	}
	slices.Sort(values)
	values = slices.Compact(values)
	asked, failed := 0, 0
	for _, a := range known() {
		table := a.table()
		conditional := make(map[uint32]bool)
		for _, c := range p.Syscalls {
			for _, name := range c.Names {
				conditional[table[name]] = conditional[table[name]] || len(c.Args) > 0
			}
		}
		conditional[table["socketcall"]], conditional[table["ipc"]] = true, true
		for i := uint32(0); i <= lastKnown+1; i++ {
			n := i | a.first
			if i > lastKnown {
				n = ^uint32(0) // of a call that a tracer cancelled
			}
			some := values[:1]
			if conditional[n] {
				some = values
			}
			for _, x := range some {
				for _, y := range some {
					d := data{number: n, arch: a.audit, args: [6]uint64{x, y, x, y, x, y}}
					got, ref := run(t, ours, d), run(t, want, d)
					if asked++; got != ref && !explained(p, a, n, got) {
						if failed++; failed < 10 {
							t.Errorf("%s %d %#x %#x: %#x, libseccomp says %#x", a.name, n&^x32Bit, x, y, got, ref)
						}
					}
				}
			}
		}
	}
	t.Logf("%d questions, %d answers differ", asked, failed)
}

const uretprobe = 335

// lastKnown is the last number of libseccomp 2.5.4.
const lastKnown = 448

// explained reports differences that are meant: ENOSYS for what is newer than the
// profile, which runc adds to what libseccomp makes.
func explained(p *specs.LinuxSeccomp, a architecture, n, got uint32) bool {
	if a.audit == unix.AUDIT_ARCH_X86_64 && n == uretprobe {
		return true // libseccomp 2.5.4 does not know it
	}
	last, ok := lastNamed(p.Syscalls, a.table())
	return ok && n > last && !permissive(p.DefaultAction) && got == unix.SECCOMP_RET_ERRNO|uint32(unix.ENOSYS)
}

// reference compiles a profile with libseccomp, which needs its headers and gcc.
func reference(t *testing.T, p *specs.LinuxSeccomp, file string) {
	t.Helper()
	program := filepath.Join(t.TempDir(), "reference")
	if out, err := exec.Command("gcc", "-o", program, "testdata/reference.c", "-lseccomp").CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v: %s", err, out)
	}
	fallback, err := action(p.DefaultAction, p.DefaultErrnoRet)
	if err != nil {
		t.Fatal(err)
	}
	rules, err := translate(p.Syscalls, fallback)
	if err != nil {
		t.Fatal(err)
	}
	var in strings.Builder
	fmt.Fprintf(&in, "default %#x\n", fallback)
	for _, a := range p.Architectures {
		fmt.Fprintf(&in, "arch %s\n", strings.ToLower(strings.TrimPrefix(string(a), "SCMP_ARCH_")))
	}
	for _, r := range rules {
		fmt.Fprintf(&in, "rule %s %#x", r.name, r.ret)
		for _, c := range r.conditions {
			fmt.Fprintf(&in, " %d %s %#x %#x", c.Index, c.Op, c.Value, c.ValueTwo)
		}
		in.WriteByte('\n')
	}
	cmd := exec.Command(program)
	cmd.Stdin = strings.NewReader(in.String())
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("libseccomp: %v: %s", err, errs.String())
	}
	if err := os.WriteFile(file, out.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

func readProgram(t *testing.T, file string) program {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var p program
	for ; len(b) >= 8; b = b[8:] {
		p = append(p, unix.SockFilter{Code: binary.LittleEndian.Uint16(b), Jt: b[2], Jf: b[3], K: binary.LittleEndian.Uint32(b[4:])})
	}
	return p
}
