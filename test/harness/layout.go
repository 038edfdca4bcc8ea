package harness

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// layOut turns fresh namespaces into a node. It runs as the node's first process.
func layOut(dir string) error {
	groups, err := findCgroups(filepath.Base(dir))
	if err != nil {
		return err
	}
	if err := groups.join(os.Getpid()); err != nil {
		return err
	}
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("make a cgroup namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	resolvConf, resolved := savedResolvConf()
	steps := []func() error{
		func() error { return groups.mount(filepath.Join(dir, "cgroup")) },
		func() error { return mount("proc", "/proc", "proc", 0, "") },
		func() error { return mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755") },
		func() error { return mount("tmpfs", "/dev/shm", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777") },
		func() error { return restoreResolvConf(resolved, resolvConf) },
		func() error { return groups.leave() },
		func() error { return os.MkdirAll(filepath.Join(dir, "tmp"), 0o1777) },
		func() error { return os.MkdirAll("/run/netns", 0o755) },
		// As systemd leaves it, and as the kubelet wants it.
		func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, "") },
		func() error { return unix.Sethostname([]byte("cricket-node")) },
		loopbackUp,
		func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644) },
	}
	for _, s := range steps {
		if err := s(); err != nil {
			return err
		}
	}
	return nil
}

func mount(source, target, fstype string, flags uintptr, data string) error {
	if err := unix.Mount(source, target, fstype, flags, data); err != nil {
		return fmt.Errorf("mount %s: %w", target, err)
	}
	return nil
}

func loopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find the loopback link: %w", err)
	}
	return netlink.LinkSetUp(lo)
}

// savedResolvConf reads the resolver configuration where it is a link into /run, which
// the node replaces.
func savedResolvConf() ([]byte, string) {
	path, err := filepath.EvalSymlinks("/etc/resolv.conf")
	if err != nil || !strings.HasPrefix(path, "/run/") {
		return nil, ""
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, ""
	}
	return data, path
}

func restoreResolvConf(path string, data []byte) error {
	if path == "" {
		return nil
	}
	return errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, data, 0o644))
}

// cgroups is the node's cgroup in every hierarchy, as mounted outside.
type cgroups struct {
	hierarchies []hierarchy
	links       map[string]string // symbolic links beside the v1 hierarchies
}

type hierarchy struct {
	mountPoint string
	own        string // the node's cgroup as a path of the file system
	v2         bool
}

// only tells whether this is a machine with cgroup v2 alone.
func (g cgroups) only() bool { return len(g.hierarchies) == 1 && g.hierarchies[0].v2 }

// findCgroups says where the node's cgroup called name lies: below this process's own
// in v1 hierarchies and the hybrid one, below the root where v2 is alone.
func findCgroups(name string) (cgroups, error) {
	own, err := ownCgroups()
	if err != nil {
		return cgroups{}, err
	}
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return cgroups{}, err
	}
	var g cgroups
	for line := range strings.Lines(string(data)) {
		before, after, _ := strings.Cut(strings.TrimSpace(line), " - ")
		f, tail := strings.Fields(before), strings.Fields(after)
		if len(f) < 5 || len(tail) < 3 || !strings.HasPrefix(f[4], "/sys/fs/cgroup") {
			continue
		}
		h := hierarchy{mountPoint: f[4], v2: tail[0] == "cgroup2"}
		switch tail[0] {
		case "cgroup2":
			h.own = own[""]
		case "cgroup":
			h.own = ownV1(own, tail[2])
		default:
			continue
		}
		g.hierarchies = append(g.hierarchies, h)
	}
	for i, h := range g.hierarchies {
		parent := h.own
		if g.only() {
			parent = "/"
		}
		g.hierarchies[i].own = filepath.Join(h.mountPoint, parent, name)
	}
	if len(g.hierarchies) == 0 {
		return g, errors.New("no cgroup hierarchy is mounted below /sys/fs/cgroup")
	}
	g.links = map[string]string{}
	entries, _ := os.ReadDir("/sys/fs/cgroup")
	for _, e := range entries {
		if target, err := os.Readlink("/sys/fs/cgroup/" + e.Name()); err == nil {
			g.links[e.Name()] = target
		}
	}
	return g, nil
}

// ownCgroups maps controller lists ("cpu,cpuacct", "name=systemd", "" for v2) to this
// process's cgroup.
func ownCgroups() (map[string]string, error) {
	data, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	own := map[string]string{}
	for line := range strings.Lines(string(data)) {
		if f := strings.SplitN(strings.TrimSpace(line), ":", 3); len(f) == 3 {
			own[f[1]] = f[2]
		}
	}
	return own, nil
}

// ownV1 finds the cgroup of the hierarchy with the given mount options.
func ownV1(own map[string]string, options string) string {
	for controllers, path := range own {
		if controllers == "" {
			continue
		}
		all := true
		for c := range strings.SplitSeq(controllers, ",") {
			all = all && strings.Contains(","+options+",", ","+c+",")
		}
		if all {
			return path
		}
	}
	return "/"
}

// makeCgroups makes the node's cgroup in every hierarchy.
func makeCgroups(name string) (cgroups, error) {
	g, err := findCgroups(name)
	if err != nil {
		return g, err
	}
	for _, h := range g.hierarchies {
		if err := os.Mkdir(h.own, 0o755); err != nil {
			return g, err
		}
		// A v1 cpuset accepts no process before it has processors and memory.
		for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
			data, err := os.ReadFile(filepath.Join(filepath.Dir(h.own), f))
			if err != nil || h.v2 {
				continue
			}
			if err := os.WriteFile(filepath.Join(h.own, f), data, 0o644); err != nil {
				return g, err
			}
		}
	}
	return g, nil
}

func (g cgroups) join(pid int) error {
	for _, h := range g.hierarchies {
		if err := os.WriteFile(filepath.Join(h.own, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0o644); err != nil {
			return fmt.Errorf("join %s: %w", h.own, err)
		}
	}
	return nil
}

// mount replaces /sys by one that shows the node's network, and the hierarchies by the
// node's part of them. It binds and moves instead of mounting again, so that every
// hierarchy stands in the mount table once, with the node's cgroup as its root.
func (g cgroups) mount(staging string) error {
	if err := os.MkdirAll(staging, 0o755); err != nil {
		return err
	}
	if err := mount(staging, staging, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	if err := unix.Mount("", staging, "", unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	held := func(i int) string { return filepath.Join(staging, strconv.Itoa(i)) }
	for i, h := range g.hierarchies {
		if err := os.Mkdir(held(i), 0o755); err != nil {
			return err
		}
		if err := mount(h.own, held(i), "", unix.MS_BIND, ""); err != nil {
			return err
		}
	}
	if err := unix.Unmount("/sys", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount /sys: %w", err)
	}
	if err := mount("sysfs", "/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return err
	}
	if !g.only() {
		if err := mount("tmpfs", "/sys/fs/cgroup", "tmpfs", 0, "mode=755"); err != nil {
			return err
		}
		for name, target := range g.links {
			if err := os.Symlink(target, "/sys/fs/cgroup/"+name); err != nil {
				return err
			}
		}
	}
	for i, h := range g.hierarchies {
		if err := os.MkdirAll(h.mountPoint, 0o755); err != nil {
			return err
		}
		if err := mount(held(i), h.mountPoint, "", unix.MS_MOVE, ""); err != nil {
			return err
		}
	}
	return unix.Unmount(staging, unix.MNT_DETACH)
}

// leave frees the root of the node's v2 hierarchy of processes: only then can its
// controllers be handed to cgroups below it.
func (g cgroups) leave() error {
	if !g.only() {
		return nil
	}
	const root = "/sys/fs/cgroup"
	if err := os.Mkdir(root+"/init", 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(root+"/init/cgroup.procs", []byte("1"), 0o644); err != nil {
		return err
	}
	controllers, err := os.ReadFile(root + "/cgroup.controllers")
	if err != nil {
		return err
	}
	for c := range strings.FieldsSeq(string(controllers)) {
		if err := os.WriteFile(root+"/cgroup.subtree_control", []byte("+"+c), 0o644); err != nil {
			return fmt.Errorf("enable controller %s: %w", c, err)
		}
	}
	return nil
}

// remove removes the node's cgroups and all below them. The node's processes are dead,
// but the kernel may need a moment to take them out.
func (g cgroups) remove() error {
	var errs []error
	for _, h := range g.hierarchies {
		errs = append(errs, removeTree(h.own))
	}
	return errors.Join(errs...)
}
