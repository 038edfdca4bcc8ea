package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// statusNames are the lines of /proc/self/status that are kept, by the names that they get.
var statusNames = map[string]string{
	"Uid": "uid", "Gid": "gid", "Groups": "groups", "Umask": "umask", "NoNewPrivs": "no_new_privs", "Seccomp": "seccomp.mode",
	"Seccomp_filters": "seccomp.filters", "Cpus_allowed_list": "cpus", "Mems_allowed_list": "mems", "SigIgn": "signals.ignored",
	"SigBlk": "signals.blocked", "CoreDumping": "coredumping", "THP_enabled": "thp", "Speculation_Store_Bypass": "ssb",
}

// capabilityNames are the lines with sets of capabilities.
var capabilityNames = map[string]string{
	"CapInh": "inheritable", "CapPrm": "permitted", "CapEff": "effective", "CapBnd": "bounding", "CapAmb": "ambient",
}

func status() (map[string]string, error) {
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return nil, err
	}
	lines := map[string]string{}
	for line := range strings.Lines(string(data)) {
		name, value, _ := strings.Cut(line, ":")
		lines[name] = strings.Join(strings.Fields(value), " ")
	}
	return lines, nil
}

func credentials(d document) {
	lines, err := status()
	for line, name := range statusNames {
		d.set(name, lines[line], err)
	}
	for line, name := range capabilityNames {
		d.set("capabilities."+name, lines[line], err)
	}
	bits, _, number := unix.Syscall6(unix.SYS_PRCTL, unix.PR_GET_SECUREBITS, 0, 0, 0, 0, 0)
	if number != 0 {
		d["securebits"] = "error " + unix.ErrnoName(number)
	} else {
		d["securebits"] = strconv.Itoa(int(bits))
	}
	for _, name := range []string{"uid_map", "gid_map", "setgroups", "attr/current"} {
		data, err := os.ReadFile("/proc/self/" + name)
		d.set(name, strings.Join(strings.Fields(strings.Trim(string(data), "\x00")), " "), err)
	}
}

// process is what kind of process this is: its ancestors, session, terminal, descriptors.
func process(d document) {
	d["pid"] = count(os.Getpid())
	d["ppid"] = strconv.Itoa(min(os.Getppid(), 2))
	sid, err := unix.Getsid(0)
	d.set("session", of(sid, err == nil && sid == os.Getpid()), err)
	d["group"] = of(unix.Getpgrp(), unix.Getpgrp() == os.Getpid())
	dir, err := os.Getwd()
	d.set("cwd", dir, err)
	d["args"] = strings.Join(os.Args, " ")
	for i, name := range []string{"stdin", "stdout", "stderr"} {
		target, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(i))
		target, _, _ = strings.Cut(target, ":[")
		d.set(name, target, err)
		if _, err := unix.IoctlGetTermios(i, unix.TCGETS); err == nil {
			d[name] += " terminal"
		}
		if size, err := unix.IoctlGetWinsize(i, unix.TIOCGWINSZ); err == nil {
			d[name] += fmt.Sprintf(" %dx%d", size.Col, size.Row)
		}
	}
	for _, name := range []string{"/dev/stdin", "/dev/stdout", "/dev/stderr"} {
		// As programs do whose log is a link to it, whoever they run as.
		f, err := os.OpenFile(name, map[bool]int{true: os.O_RDONLY, false: os.O_WRONLY}[name == "/dev/stdin"]|unix.O_NONBLOCK, 0)
		d.set("reopened "+name, "yes", err)
		if err == nil {
			f.Close()
		}
	}
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	d.set("controlling terminal", "yes", err)
	if err == nil {
		tty.Close()
	}
	d.set("open", descriptors(), nil)
	for _, name := range []string{"oom_score_adj", "timens_offsets", "loginuid"} {
		data, err := os.ReadFile("/proc/self/" + name)
		d.set(name, strings.Join(strings.Fields(string(data)), " "), err)
	}
	nice, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	d.set("nice", strconv.Itoa(20-nice), err)
	all, err := filepath.Glob("/proc/[0-9]*")
	d.set("processes seen", count(len(all)), err)
}

// count tells 1 from more: how many more depends on what else happens.
func count(n int) string {
	if n == 1 {
		return "1"
	}
	return "more than 1"
}

func of(n int, own bool) string {
	switch {
	case own:
		return "own"
	case n == 0:
		return "another namespace's"
	default:
		return "another's"
	}
}

// descriptors lists what is open beyond the first three and what the Go runtime opens.
func descriptors() string {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return "error " + kind(err)
	}
	var list []string
	for _, e := range entries {
		n, _ := strconv.Atoi(e.Name())
		target, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err != nil || n < 3 || strings.HasPrefix(target, "anon_inode:[event") || strings.HasPrefix(target, "/proc/") {
			continue
		}
		target, _, _ = strings.Cut(target, ":[")
		list = append(list, target)
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}

func environment(d document) {
	for _, e := range os.Environ() {
		name, value, _ := strings.Cut(e, "=")
		if old, twice := d["env."+name]; twice {
			value = old + " and " + value
		}
		d["env."+name] = value
	}
}

// limitNames are in the order of their numbers: getrlimit(2).
var limitNames = []string{
	"cpu", "fsize", "data", "stack", "core", "rss", "nproc", "nofile", "memlock", "as", "locks", "sigpending", "msgqueue", "nice", "rtprio", "rttime",
}

// limits are read as the kernel has them: the Go runtime raises its own soft limit of files.
func limits(d document) {
	data, err := os.ReadFile("/proc/self/limits")
	lines := strings.Split(string(data), "\n")
	for i, name := range limitNames {
		var l unix.Rlimit
		if err == nil && name != "nofile" {
			err := unix.Getrlimit(i, &l)
			d.set("rlimit."+name, bound(l.Cur)+" "+bound(l.Max), err)
			continue
		}
		d.set("rlimit."+name, "", err)
		for _, line := range lines {
			// Its hard limit alone: the soft one is what the Go runtime made of it.
			if rest, ok := strings.CutPrefix(line, "Max open files"); ok {
				if f := strings.Fields(rest); len(f) > 1 {
					d["rlimit."+name] = f[1]
				}
			}
		}
	}
}

func bound(n uint64) string {
	if n == unix.RLIM_INFINITY {
		return "unlimited"
	}
	return strconv.FormatUint(n, 10)
}
