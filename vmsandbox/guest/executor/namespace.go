package executor

import (
	"fmt"
	"os"
	"slices"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func cloneFlag(t specs.LinuxNamespaceType) (int, error) {
	switch t {
	case specs.MountNamespace:
		return unix.CLONE_NEWNS, nil
	case specs.PIDNamespace:
		return unix.CLONE_NEWPID, nil
	case specs.NetworkNamespace:
		return unix.CLONE_NEWNET, nil
	case specs.IPCNamespace:
		return unix.CLONE_NEWIPC, nil
	case specs.UTSNamespace:
		return unix.CLONE_NEWUTS, nil
	case specs.UserNamespace:
		return unix.CLONE_NEWUSER, nil
	case specs.CgroupNamespace:
		return unix.CLONE_NEWCGROUP, nil
	}
	return 0, fmt.Errorf("namespace of type %q: %w", t, errdefs.ErrInvalidArgument)
}

// namespaces sorts what a container joins and makes.
type namespaces struct {
	made   int // flags of clone(2), without those of the others
	joined []specs.LinuxNamespace
	user   string // path of the user namespace to join; empty without
	all    int    // flags of everything that the container does not share with us
}

func sortNamespaces(list []specs.LinuxNamespace) (n namespaces, err error) {
	for _, ns := range list {
		flag, err := cloneFlag(ns.Type)
		if err != nil {
			return n, err
		}
		if n.all&flag != 0 {
			return n, fmt.Errorf("namespace %s twice: %w", ns.Type, errdefs.ErrInvalidArgument)
		}
		n.all |= flag
		switch {
		case ns.Path == "":
			n.made |= flag
		case ns.Type == specs.UserNamespace:
			n.user = ns.Path
		case ns.Type == specs.MountNamespace:
			return n, fmt.Errorf("join a mount namespace: %w", errdefs.ErrNotImplemented)
		default:
			n.joined = append(n.joined, ns)
		}
	}
	if n.made&unix.CLONE_NEWNS == 0 {
		return n, fmt.Errorf("container without a mount namespace: %w", errdefs.ErrInvalidArgument)
	}
	return n, nil
}

func (n namespaces) makes(flag int) bool { return n.made&flag != 0 }

// ownUser reports whether the container runs in a user namespace.
func (n namespaces) ownUser() bool { return n.all&unix.CLONE_NEWUSER != 0 }

// join moves the calling thread, and for PID namespaces its children.
func (n namespaces) join() error {
	for _, ns := range n.joined {
		flag, err := cloneFlag(ns.Type)
		if err != nil {
			return err
		}
		fd, err := unix.Open(ns.Path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open %s namespace %s: %w", ns.Type, ns.Path, err)
		}
		err = unix.Setns(fd, flag)
		unix.Close(fd)
		if err != nil {
			return fmt.Errorf("join %s namespace %s: %w", ns.Type, ns.Path, err)
		}
	}
	return nil
}

// place makes the process be born in its namespaces, as far as that is possible: one
// that joins a user namespace makes the others there, and those of the cgroup are made
// by a process that is in its cgroup.
func (n namespaces) place(l *launch, spec *specs.Spec) error {
	if n.user != "" {
		f, err := os.Open(n.user)
		if err != nil {
			return fmt.Errorf("open user namespace %s: %w", n.user, err)
		}
		l.extra = append(l.extra, f)
		return nil
	}
	l.attr.Cloneflags = uintptr(n.made &^ unix.CLONE_NEWCGROUP)
	if n.makes(unix.CLONE_NEWUSER) {
		l.attr.UidMappings, l.attr.GidMappings = idMap(spec.Linux.UIDMappings), idMap(spec.Linux.GIDMappings)
		l.attr.GidMappingsEnableSetgroups = true
		l.attr.Credential = &syscall.Credential{} // or its capabilities would end with exec
	}
	return nil
}

func idMap(list []specs.LinuxIDMapping) []syscall.SysProcIDMap {
	var ids []syscall.SysProcIDMap
	for _, m := range list {
		ids = append(ids, syscall.SysProcIDMap{ContainerID: int(m.ContainerID), HostID: int(m.HostID), Size: int(m.Size)})
	}
	return ids
}

// enter begins the plan of an init process: namespaces that could not be made before.
func (n namespaces) enter(p *plan) {
	p.add("become undumpable", unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	if n.user != "" {
		p.add("join user namespace", unix.SYS_SETNS, fdExtra, unix.CLONE_NEWUSER)
		p.add("make namespaces", unix.SYS_UNSHARE, n.made&^unix.CLONE_NEWCGROUP)
		if n.makes(unix.CLONE_NEWPID) {
			// Only children are in the new one; this one is to be a child of ours, too.
			fork := p.add("fork", unix.SYS_CLONE, unix.CLONE_PARENT|int(unix.SIGCHLD), 0, 0, 0, 0)
			p.ops[fork].flags = flagBranch
			child := p.set(planBase+8, 0) // a place that nobody reads
			parent := p.add("", unix.SYS_EXIT_GROUP, 0)
			p.success(fork, parent)
			p.success(child, p.next())
		}
	}
	if n.ownUser() {
		p.add("become root of user namespace", unix.SYS_SETRESGID, 0, 0, 0)
		p.add("become root of user namespace", unix.SYS_SETRESUID, 0, 0, 0)
		p.add("become undumpable", unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	}
	if n.makes(unix.CLONE_NEWCGROUP) {
		p.add("make cgroup namespace", unix.SYS_UNSHARE, unix.CLONE_NEWCGROUP)
	}
}

// rootOf is the container's root user and group as this process sees them.
func rootOf(spec *specs.Spec) (uid, gid int) {
	return toHost(spec.Linux.UIDMappings), toHost(spec.Linux.GIDMappings)
}

func toHost(list []specs.LinuxIDMapping) int {
	i := slices.IndexFunc(list, func(m specs.LinuxIDMapping) bool { return m.ContainerID == 0 && m.Size > 0 })
	if i < 0 {
		return 0
	}
	return int(list[i].HostID)
}
