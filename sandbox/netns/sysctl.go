package netns

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Defaults of pods with a network namespace of their own, as containerd has them: any
// user may listen on low ports and open ICMP sockets.
const (
	unprivilegedPorts = "net.ipv4.ip_unprivileged_port_start"
	pingGroups        = "net.ipv4.ping_group_range"
)

// AddDefaultSysctls returns sysctls with the defaults that it does not set. Ping is
// left alone in a user namespace, whose groups are not known.
func AddDefaultSysctls(sysctls map[string]string, userNS bool) map[string]string {
	all := map[string]string{unprivilegedPorts: "0"}
	if !userNS {
		all[pingGroups] = "0 2147483647"
	}
	for name, value := range sysctls {
		all[dotted(name)] = value
	}
	return all
}

// CheckSysctls says whether a pod that has the namespaces types of its own may set the
// sysctls. errdefs.ErrInvalidArgument names the one that belongs to the whole host.
func CheckSysctls(sysctls map[string]string, types []specs.LinuxNamespaceType) error {
	for _, name := range sortedNames(sysctls) {
		t, ok := sysctlNamespace(dotted(name))
		if !ok {
			return fmt.Errorf("sysctl %q is not namespaced: %w", name, errdefs.ErrInvalidArgument)
		}
		if !slices.Contains(types, t) {
			return fmt.Errorf("sysctl %q needs a %s namespace of the pod's own: %w", name, t, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// sysctlNamespace is the type of namespace that a sysctl belongs to (namespaces(7)).
func sysctlNamespace(name string) (specs.LinuxNamespaceType, bool) {
	for part := range strings.SplitSeq(swapSeparators(name), "/") {
		if part == "" || part == "." || part == ".." {
			return "", false
		}
	}
	switch name {
	case "kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall",
		"kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced":
		return specs.IPCNamespace, true
	case "kernel.domainname":
		return specs.UTSNamespace, true
	}
	switch {
	case strings.HasPrefix(name, "fs.mqueue."):
		return specs.IPCNamespace, true
	case strings.HasPrefix(name, "net."):
		return specs.NetworkNamespace, true
	}
	return "", false
}

// dotted gives the form with dots of a name in either form of sysctl(8). In the form
// with slashes, dots belong to a component (an interface such as eth0.1) and become
// slashes.
func dotted(name string) string {
	i := strings.IndexAny(name, "./")
	if i < 0 || name[i] == '.' {
		return name
	}
	return swapSeparators(name)
}

func swapSeparators(name string) string {
	return strings.Map(func(r rune) rune {
		switch r {
		case '.':
			return '/'
		case '/':
			return '.'
		}
		return r
	}, name)
}

func (s Setup) applySysctls() error {
	for _, name := range sortedNames(s.Sysctls) {
		t, _ := sysctlNamespace(dotted(name))
		write := writeSysctl
		if t == specs.IPCNamespace && s.RootUID != 0 {
			write = s.writeAsPodRoot
		}
		if err := write(dotted(name), s.Sysctls[name]); err != nil {
			if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.EINVAL) || errors.Is(err, os.ErrPermission) {
				return fmt.Errorf("set sysctl %q: %w: %w", name, errdefs.ErrInvalidArgument, err)
			}
			return fmt.Errorf("set sysctl %q: %w", name, err)
		}
	}
	return nil
}

func writeSysctl(name, value string) error {
	path := filepath.Join("/proc/sys", filepath.Clean("/"+swapSeparators(name)))
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// writeAsPodRoot writes with the effective ids of the user namespace's root: the
// kernel gives the host's root no right to the IPC sysctls of another's namespace. It
// changes the calling thread alone, whence the raw system calls.
func (s Setup) writeAsPodRoot(name, value string) (err error) {
	if err := setEffective(s.RootUID, s.RootGID); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, setEffective(0, 0)) }()
	return writeSysctl(name, value)
}

func setEffective(uid, gid int) error {
	keep := ^uintptr(0)
	set := func(call uintptr, id int) error {
		if _, _, e := unix.RawSyscall(call, keep, uintptr(id), keep); e != 0 {
			return fmt.Errorf("take effective id %d: %w", id, e)
		}
		return nil
	}
	if uid == 0 { // root first, or there is no right to change the group
		return errors.Join(set(unix.SYS_SETRESUID, uid), set(unix.SYS_SETRESGID, gid))
	}
	if err := set(unix.SYS_SETRESGID, gid); err != nil {
		return err
	}
	return set(unix.SYS_SETRESUID, uid)
}

func sortedNames(sysctls map[string]string) []string {
	names := make([]string, 0, len(sysctls))
	for name := range sysctls {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}
