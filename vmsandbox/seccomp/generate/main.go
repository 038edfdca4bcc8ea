// Command generate writes the tables of system calls: a line with name and number for
// each, by architecture, from the numbers in golang.org/x/sys/unix.
package main

import (
	"bufio"
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}

type call struct {
	name   string
	number uint32
}

func run() error {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "golang.org/x/sys").Output()
	if err != nil {
		return fmt.Errorf("find golang.org/x/sys: %w", err)
	}
	dir := filepath.Join(strings.TrimSpace(string(out)), "unix")
	tables := make(map[string][]call)
	for table, arch := range map[string]string{"x86_64": "amd64", "x86": "386", "aarch64": "arm64", "arm": "arm"} {
		calls, err := read(filepath.Join(dir, "zsysnum_linux_"+arch+".go"))
		if err != nil {
			return err
		}
		tables[table] = calls
	}
	tables["arm"] = append(tables["arm"], private()...)
	tables["x32"] = x32(tables["x86_64"])
	for name, calls := range tables {
		slices.SortFunc(calls, func(a, b call) int { return cmp.Or(cmp.Compare(a.number, b.number), cmp.Compare(a.name, b.name)) })
		var text strings.Builder
		for _, c := range calls {
			fmt.Fprintf(&text, "%s %d\n", c.name, c.number)
		}
		if err := os.WriteFile(filepath.Join("tables", name+".txt"), []byte(text.String()), 0o644); err != nil {
			return err
		}
	}
	return nil
}

var constant = regexp.MustCompile(`^\s*SYS_([A-Z0-9_]+)\s*=\s*(\d+)$`)

func read(file string) ([]call, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var calls []call
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		m := constant.FindStringSubmatch(lines.Text())
		if m == nil || m[1] == "SYSCALL_MASK" {
			continue
		}
		n, err := strconv.ParseUint(m[2], 10, 32)
		if err != nil {
			return nil, err
		}
		calls = append(calls, call{strings.ToLower(m[1]), uint32(n)})
	}
	return calls, lines.Err()
}

// private are the calls of ARM that other architectures have not (__ARM_NR_BASE).
func private() []call {
	const base = 0x0f0000
	return []call{{"breakpoint", base + 1}, {"cacheflush", base + 2}, {"usr26", base + 3}, {"usr32", base + 4}, {"set_tls", base + 5}}
}

// x32 are most of the calls of x86-64 with bit 30; some have numbers of their own, from
// 512 on.
func x32(calls []call) []call {
	own := strings.Fields(`rt_sigaction rt_sigreturn ioctl readv writev recvfrom sendmsg recvmsg execve ptrace
		rt_sigpending rt_sigtimedwait rt_sigqueueinfo sigaltstack timer_create mq_notify kexec_load waitid
		set_robust_list get_robust_list vmsplice move_pages preadv pwritev rt_tgsigqueueinfo recvmmsg sendmmsg
		process_vm_readv process_vm_writev setsockopt getsockopt io_setup io_submit execveat preadv2 pwritev2`)
	without := strings.Fields(`uselib _sysctl create_module get_kernel_syms query_module nfsservctl set_thread_area
		get_thread_area epoll_ctl_old epoll_wait_old vserver uretprobe`)
	const bit = 1 << 30
	var out []call
	for _, c := range calls {
		if slices.Contains(without, c.name) {
			continue
		}
		if i := slices.Index(own, c.name); i >= 0 {
			c.number = 512 + uint32(i)
		}
		out = append(out, call{c.name, c.number | bit})
	}
	return out
}
