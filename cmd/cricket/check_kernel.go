package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	capSysAdmin    = 21
	capSysResource = 24
)

func (host) privileges(context.Context) []finding {
	caps, err := effectiveCapabilities()
	switch {
	case err != nil:
		return []finding{{Name: "privileges", Grade: failed, Detail: err.Error()}}
	case os.Geteuid() != 0 || caps&(1<<capSysAdmin) == 0:
		return []finding{{Name: "privileges", Grade: failed, Detail: "not root, or without CAP_SYS_ADMIN", Fix: "run it as root: sudo cricket check"}}
	case caps&(1<<capSysResource) == 0:
		return []finding{{Name: "privileges", Grade: limited, Detail: "root without CAP_SYS_RESOURCE",
			Lacks: "OOM scores cannot be lowered and limits cannot be raised: they stay as they are",
			Fix:   "give the daemon CAP_SYS_RESOURCE"}}
	}
	return []finding{ok("privileges", "root")}
}

func effectiveCapabilities() (uint64, error) {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, fmt.Errorf("read capabilities: %w", err)
	}
	_, rest, found := strings.Cut(string(text), "CapEff:")
	if !found {
		return 0, fmt.Errorf("read capabilities: no CapEff in /proc/self/status")
	}
	line, _, _ := strings.Cut(rest, "\n")
	return strconv.ParseUint(strings.TrimSpace(line), 16, 64)
}

// release is the kernel's version as numbers that compare.
func release() (name string, major, minor int, err error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", 0, 0, fmt.Errorf("read kernel version: %w", err)
	}
	name = unix.ByteSliceToString(u.Release[:])
	if _, err := fmt.Sscanf(name, "%d.%d", &major, &minor); err != nil {
		return name, 0, 0, fmt.Errorf("read kernel version %q: %w", name, err)
	}
	return name, major, minor, nil
}

func (host) kernel(context.Context) []finding {
	name, major, minor, err := release()
	if err != nil {
		return []finding{{Name: "kernel", Grade: failed, Detail: err.Error()}}
	}
	at := func(a, b int) bool { return major > a || major == a && minor >= b }
	f := ok("kernel", "%s", name)
	var lacks []string
	for _, need := range []struct {
		major, minor int
		what         string
	}{
		{5, 12, "recursive read-only mounts"},
		{5, 19, "user namespaces (id-mapped layers)"},
		{6, 12, "layers without loop devices"},
		{6, 15, "exit codes of containers that end while the monitor is dead"},
	} {
		if !at(need.major, need.minor) {
			lacks = append(lacks, fmt.Sprintf("%s (Linux %d.%d)", need.what, need.major, need.minor))
		}
	}
	if fd, err := unix.PidfdOpen(os.Getpid(), 0); err != nil {
		return []finding{{Name: "kernel", Grade: failed, Detail: name + ": no pidfd", Fix: "boot Linux 5.4 or later"}}
	} else {
		unix.Close(fd)
	}
	if len(lacks) > 0 {
		f.Grade, f.Lacks, f.Fix = limited, strings.Join(lacks, "; "), "boot a newer kernel"
	}
	return []finding{f}
}

func (host) cgroups(context.Context) []finding {
	var st unix.Statfs_t
	if err := unix.Statfs("/sys/fs/cgroup", &st); err != nil {
		return []finding{{Name: "cgroups", Grade: failed, Detail: "/sys/fs/cgroup: " + err.Error(), Fix: "mount -t cgroup2 cgroup2 /sys/fs/cgroup"}}
	}
	if st.Type == unix.CGROUP2_SUPER_MAGIC {
		text, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
		lacks := missing(strings.Fields(string(text)), "cpu", "memory", "pids", "cpuset", "io")
		if err != nil || len(lacks) > 0 {
			return []finding{{Name: "cgroups", Grade: limited, Detail: "version 2", Lacks: "controllers: " + strings.Join(lacks, ", "), Fix: "boot a kernel with these controllers"}}
		}
		return []finding{ok("cgroups", "version 2, controllers %s", strings.TrimSpace(string(text)))}
	}
	var there []string
	for _, c := range []string{"cpu", "memory", "pids", "cpuset", "freezer", "devices"} {
		if exists("/sys/fs/cgroup/" + c) {
			there = append(there, c)
		}
	}
	f := finding{Name: "cgroups", Grade: limited, Detail: "version 1, controllers " + strings.Join(there, " "),
		Lacks: "pressure figures; the kubelet refuses version 1 by default",
		Fix:   "boot with systemd.unified_cgroup_hierarchy=1 cgroup_no_v1=all"}
	if lacks := missing(there, "cpu", "memory", "pids", "freezer", "devices"); len(lacks) > 0 {
		f.Grade, f.Lacks = failed, "controllers: "+strings.Join(lacks, ", ")
	}
	return []finding{f}
}

func missing(have []string, want ...string) []string {
	var lacks []string
	for _, w := range want {
		found := false
		for _, h := range have {
			found = found || h == w
		}
		if !found {
			lacks = append(lacks, w)
		}
	}
	return lacks
}

func (host) namespaces(context.Context) []finding {
	var lacks []string
	for _, n := range []string{"mnt", "pid", "net", "ipc", "uts"} {
		if !exists("/proc/self/ns/" + n) {
			lacks = append(lacks, n)
		}
	}
	if len(lacks) > 0 {
		return []finding{{Name: "namespaces", Grade: failed, Lacks: strings.Join(lacks, ", "), Fix: "boot a kernel with CONFIG_NAMESPACES and these kinds"}}
	}
	return []finding{ok("namespaces", "mount, pid, net, ipc, uts")}
}

// userNamespaces makes one.
func (host) userNamespaces(ctx context.Context) []finding {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "version")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{HostID: 65536, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: 65536, Size: 1}},
	}
	// Whether it could read its program as that user does not matter.
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		return []finding{{Name: "user namespaces", Grade: limited, Detail: err.Error(),
			Lacks: "pods with hostUsers: false", Fix: "sysctl -w user.max_user_namespaces=28633"}}
	}
	return []finding{ok("user namespaces", "can be made")}
}

func (host) seccomp(context.Context) []finding {
	text, err := os.ReadFile("/proc/sys/kernel/seccomp/actions_avail")
	if err != nil {
		return []finding{{Name: "seccomp", Grade: limited, Detail: err.Error(), Lacks: "seccomp profiles", Fix: "boot a kernel with CONFIG_SECCOMP_FILTER"}}
	}
	return []finding{ok("seccomp", "%s", strings.TrimSpace(string(text)))}
}

// modules are the Linux security modules that pods can have profiles of; a host
// without them is an ordinary one.
func (host) modules(context.Context) []finding {
	var all []finding
	text, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	if err == nil && strings.HasPrefix(string(text), "Y") {
		all = append(all, ok("AppArmor", "enabled"))
	} else {
		all = append(all, ok("AppArmor", "not enabled: pods that name a profile are refused"))
	}
	if exists("/sys/fs/selinux/enforce") {
		return append(all, ok("SELinux", "enabled"))
	}
	return append(all, ok("SELinux", "not enabled: labels are ignored"))
}

func (host) limits(context.Context) []finding {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return []finding{{Name: "descriptors", Grade: limited, Detail: err.Error()}}
	}
	const enough = 65536
	if l.Max < enough {
		return []finding{{Name: "descriptors", Grade: limited, Detail: fmt.Sprintf("at most %d a process", l.Max),
			Lacks: fmt.Sprintf("room for more than about %d containers", l.Max/8), Fix: "ulimit -Hn 1048576, or LimitNOFILE= in the unit"}}
	}
	return []finding{ok("descriptors", "at most %d a process", l.Max)}
}
