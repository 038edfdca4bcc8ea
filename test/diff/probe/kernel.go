package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// sysctls are some of each namespace, and of none.
var sysctls = []string{
	"kernel/shmmax", "kernel/shmall", "kernel/shmmni", "kernel/shm_rmid_forced", "kernel/msgmax", "kernel/msgmnb", "kernel/msgmni", "kernel/sem",
	"kernel/domainname", "fs/mqueue/msg_max", "fs/mqueue/queues_max", "fs/mqueue/msgsize_max", "net/ipv4/ip_unprivileged_port_start",
	"net/ipv4/ping_group_range", "net/ipv4/tcp_syncookies", "net/ipv4/ip_local_port_range", "net/ipv4/ip_forward", "net/core/somaxconn",
	"net/ipv4/tcp_keepalive_time", "net/ipv4/tcp_fin_timeout", "net/ipv4/tcp_keepalive_intvl", "net/ipv4/tcp_rmem",
	"net/ipv6/conf/all/disable_ipv6", "net/ipv6/conf/all/forwarding", "net/ipv4/conf/all/rp_filter", "net/ipv4/conf/eth0/rp_filter",
	"net/ipv6/conf/eth0/accept_dad", "net/ipv6/conf/lo/disable_ipv6",
}

func settings(d document) {
	for _, name := range sysctls {
		data, err := os.ReadFile("/proc/sys/" + name)
		d.set("sysctl."+strings.ReplaceAll(name, "/", "."), strings.Join(strings.Fields(string(data)), " "), err)
	}
	var u unix.Utsname
	err := unix.Uname(&u)
	d.set("hostname", unix.ByteSliceToString(u.Nodename[:]), err)
	d.set("machine", unix.ByteSliceToString(u.Machine[:]), err)
	name, err := os.Hostname()
	d.set("hostname seen", name, err)
}

// cgroupFiles are limits by the names that v1 and v2 have for them.
var cgroupFiles = map[string][2]string{
	"memory.limit": {"memory/memory.limit_in_bytes", "memory.max"}, "memory.swap": {"memory/memory.memsw.limit_in_bytes", "memory.swap.max"},
	"cpu.quota": {"cpu/cpu.cfs_quota_us", "cpu.max"}, "cpu.period": {"cpu/cpu.cfs_period_us", "cpu.max"},
	"cpu.shares": {"cpu/cpu.shares", "cpu.weight"}, "pids": {"pids/pids.max", "pids.max"},
	"cpuset.cpus": {"cpuset/cpuset.cpus", "cpuset.cpus"}, "cpuset.mems": {"cpuset/cpuset.mems", "cpuset.mems"},
	"hugetlb.2MB": {"hugetlb/hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.max"},
	"devices":     {"devices/devices.list", "devices"},
}

// cgroups are the limits as seen from inside.
func cgroups(d document) {
	const root = "/sys/fs/cgroup"
	version := 0
	if _, err := os.Stat(root + "/cgroup.controllers"); err == nil {
		version = 1
	}
	d["cgroup.version"] = fmt.Sprint(version + 1)
	for name, files := range cgroupFiles {
		data, err := os.ReadFile(filepath.Join(root, files[version]))
		lines := strings.Split(strings.TrimSpace(string(data)), "\n")
		slices.Sort(lines)
		d.set("cgroup."+name, strings.Join(lines, "\n"), err)
	}
	data, err := os.ReadFile("/proc/self/cgroup")
	d.set("cgroup.paths", "", err)
	for line := range strings.Lines(string(data)) {
		if f := strings.SplitN(strings.TrimSpace(line), ":", 3); len(f) == 3 {
			d["cgroup.path."+f[1]] = f[2]
		}
	}
}

// namespaces are their inodes; who has the host's can compare.
func namespaces(d document) {
	for _, name := range []string{"cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"} {
		link, err := os.Readlink("/proc/self/ns/" + name)
		d.set("namespace."+name, link, err)
	}
}

// links are the interfaces and their addresses.
func links(d document) {
	all, err := net.Interfaces()
	if err != nil {
		d.set("links", "", err)
		return
	}
	var names []string
	for _, l := range all {
		l = settled(l)
		names = append(names, l.Name)
		addresses, err := l.Addrs()
		var list []string
		for _, a := range addresses {
			// A link-local address comes when the kernel has looked for doubles.
			if ip, _, err := net.ParseCIDR(a.String()); err == nil && !ip.IsLinkLocalUnicast() {
				list = append(list, a.String())
			}
		}
		slices.Sort(list)
		d.set("link."+l.Name, fmt.Sprintf("%s mtu %d %s", l.Flags, l.MTU, strings.Join(list, " ")), err)
	}
	slices.Sort(names)
	d["links"] = strings.Join(names, " ")
	routes, err := os.ReadFile("/proc/self/net/route")
	d.set("routes", strings.Join(strings.Fields(string(routes)), " "), err)
}

// settled waits a little for an interface to be told as running: the kernel notices in the
// background that it has a carrier.
func settled(l net.Interface) net.Interface {
	for range 200 {
		if l.Flags&net.FlagUp == 0 || l.Flags&net.FlagRunning != 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
		if now, err := net.InterfaceByName(l.Name); err == nil {
			l = *now
		}
	}
	return l
}

// calls are system calls with arguments that have no effect where they are allowed: what
// they answer tells what a filter lets through.
var calls = map[string][4]uintptr{
	"unshare user":   {unix.SYS_UNSHARE, 0x80000001}, // contradicts itself
	"mount":          {unix.SYS_MOUNT, 0, 0, 0},
	"umount2":        {unix.SYS_UMOUNT2, 0, ^uintptr(0)},
	"keyctl":         {unix.SYS_KEYCTL, 99999},
	"add_key":        {unix.SYS_ADD_KEY, 0, 0, 0},
	"bpf":            {unix.SYS_BPF, 9999, 0, 0},
	"perf_event":     {unix.SYS_PERF_EVENT_OPEN, 0, 0, 0},
	"userfaultfd":    {unix.SYS_USERFAULTFD, ^uintptr(0)},
	"io_uring_setup": {unix.SYS_IO_URING_SETUP, 0, 0},
	"ptrace":         {unix.SYS_PTRACE, 99999, 0, 0},
	"personality":    {unix.SYS_PERSONALITY, 0xffffffff},
	"setns":          {unix.SYS_SETNS, ^uintptr(0), 0},
	"kexec_load":     {unix.SYS_KEXEC_LOAD, 0, 1 << 16, 0},
	"init_module":    {unix.SYS_INIT_MODULE, 0, 0, 0},
	"open_by_handle": {unix.SYS_OPEN_BY_HANDLE_AT, ^uintptr(0), 0, 0},
	"clock_settime":  {unix.SYS_CLOCK_SETTIME, 99, 0},
	"chroot":         {unix.SYS_CHROOT, 0},
	"sethostname":    {unix.SYS_SETHOSTNAME, 0, ^uintptr(0)},
	"mkdirat":        {unix.SYS_MKDIRAT, ^uintptr(0), 0, 0},
	"acct":           {unix.SYS_ACCT, 1},
	"quotactl":       {unix.SYS_QUOTACTL, 0xffffffff, 0, 0},
	"clone3":         {unix.SYS_CLONE3, 0, 0},
	"pidfd_getfd":    {unix.SYS_PIDFD_GETFD, ^uintptr(0), 0, 0},
	"syslog":         {unix.SYS_SYSLOG, 9999, 0},
	"swapoff":        {unix.SYS_SWAPOFF, 1},
	"none such":      {1 << 20},
}

func syscalls(d document) {
	for name, c := range calls {
		_, _, number := unix.Syscall(c[0], c[1], c[2], c[3])
		d["syscall."+name] = "0"
		if number != 0 {
			d["syscall."+name] = unix.ErrnoName(number)
		}
	}
	// A socket of every kind that is filtered somewhere.
	for name, args := range map[string][3]int{
		"vsock": {unix.AF_VSOCK, unix.SOCK_STREAM, 0}, "raw": {unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP},
		"ping": {unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP}, "packet": {unix.AF_PACKET, unix.SOCK_RAW, 0},
		"alg": {unix.AF_ALG, unix.SOCK_SEQPACKET, 0},
	} {
		fd, err := unix.Socket(args[0], args[1], args[2])
		d.set("socket."+name, "yes", err)
		if err == nil {
			unix.Close(fd)
		}
	}
	// To the low ports without a capability.
	l, err := net.Listen("tcp", "127.0.0.1:81")
	d.set("listen on port 81", "yes", err)
	if err == nil {
		l.Close()
	}
}
