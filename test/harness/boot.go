package harness

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Boot is what a node holds before anything runs in it.
type Boot struct {
	mounts  map[string]bool // by id
	cgroups []string
	links   []string
	run     []string // the entries of /run
	shm     []string // and of /dev/shm
}

// bootID is how programs tell one boot from another: proc(5).
const bootID = "/proc/sys/kernel/random/boot_id"

// ObserveBoot notes what the node holds, for Reboot.
func ObserveBoot() (b Boot, err error) {
	mounts, err := mounted()
	if err != nil {
		return b, err
	}
	b.mounts = map[string]bool{}
	for _, m := range mounts {
		b.mounts[m.id] = true
	}
	b.cgroups, b.run, b.shm = cgroupDirs(), names("/run"), names("/dev/shm")
	b.links, err = linkNames()
	return b, err
}

// Reboot takes from the node what a reboot takes: every process but this one and its
// parents, and every mount, cgroup, link and packet filter that was not there when b was
// noted, with /run and /dev/shm. Other files stay, as they are. The node's boot has
// another id from then on.
func (b Boot) Reboot() error {
	for _, s := range []struct {
		what string
		run  func() error
	}{
		{"kill everything", killAll},
		{"unmount", b.unmount},
		{"remove cgroups", b.removeCgroups},
		{"delete links", b.deleteLinks},
		{"drop packet filters", dropFilters},
		{"empty /run", func() error { return errors.Join(empty("/run", b.run), empty("/dev/shm", b.shm)) }},
		{"number the boot", newBoot},
	} {
		if err := s.run(); err != nil {
			return fmt.Errorf("reboot: %s: %w", s.what, err)
		}
	}
	return nil
}

// killAll kills the node's processes until there are none but the first and this one.
func killAll() error {
	for deadline := time.Now().Add(startTimeout); ; time.Sleep(20 * time.Millisecond) {
		left := 0
		for _, name := range names("/proc") {
			pid, err := strconv.Atoi(name)
			if err != nil || pid == 1 || pid == os.Getpid() {
				continue
			}
			if state, _, err := ProcessStat(pid); err != nil || state == "Z" {
				continue
			}
			left++
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		if left == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d processes do not end", left)
		}
	}
}

type mountPoint struct{ id, path string }

// mounted are the mounts in the order of their making.
func mounted() ([]mountPoint, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var all []mountPoint
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 4 {
			all = append(all, mountPoint{f[0], f[4]})
		}
	}
	return all, nil
}

func (b Boot) unmount() error {
	all, err := mounted()
	if err != nil {
		return err
	}
	for _, m := range slices.Backward(all) {
		if b.mounts[m.id] {
			continue
		}
		// What was propagated has gone with its source.
		if err := unix.Unmount(m.path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return &os.PathError{Op: "umount", Path: m.path, Err: err}
		}
	}
	return nil
}

// cgroupDirs are the cgroups below the roots of all hierarchies.
func cgroupDirs() []string {
	var all []string
	for _, depth := range []string{"/sys/fs/cgroup/*", "/sys/fs/cgroup/*/*"} {
		found, _ := filepath.Glob(depth) // the pattern is good
		for _, dir := range found {
			if is, err := os.Lstat(dir); err == nil && is.IsDir() {
				all = append(all, dir)
			}
		}
	}
	return all
}

func (b Boot) removeCgroups() error {
	var errs []error
	for _, dir := range cgroupDirs() {
		if !slices.Contains(b.cgroups, dir) {
			errs = append(errs, removeTree(dir))
		}
	}
	return errors.Join(errs...)
}

func linkNames() (all []string, err error) {
	links, err := netlink.LinkList()
	for _, l := range links {
		all = append(all, l.Attrs().Name)
	}
	return all, err
}

func (b Boot) deleteLinks() error {
	links, err := netlink.LinkList()
	if err != nil {
		return err
	}
	for _, l := range links {
		if slices.Contains(b.links, l.Attrs().Name) {
			continue
		}
		// The other end of a pair has gone with it.
		var gone netlink.LinkNotFoundError
		if err := netlink.LinkDel(l); err != nil && !errors.As(err, &gone) && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("%s: %w", l.Attrs().Name, err)
		}
	}
	return nil
}

func dropFilters() error {
	for _, program := range []string{"iptables-restore", "ip6tables-restore"} {
		c := exec.Command(program)
		c.Stdin = strings.NewReader("*nat\nCOMMIT\n*mangle\nCOMMIT\n*filter\nCOMMIT\n")
		if out, err := c.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", program, err, out)
		}
	}
	return nil
}

// names are the entries of a directory.
func names(dir string) (all []string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

func empty(dir string, but []string) error {
	var errs []error
	for _, name := range names(dir) {
		if !slices.Contains(but, name) {
			errs = append(errs, os.RemoveAll(filepath.Join(dir, name)))
		}
	}
	return errors.Join(errs...)
}

// newBoot covers the kernel's number of this boot with another.
func newBoot() error {
	r := make([]byte, 16)
	if _, err := rand.Read(r); err != nil {
		return err
	}
	file := filepath.Join(Dir(), "boot_id")
	id := fmt.Sprintf("%x-%x-%x-%x-%x\n", r[:4], r[4:6], r[6:8], r[8:10], r[10:])
	if err := os.WriteFile(file, []byte(id), 0o444); err != nil {
		return err
	}
	// Where no proc(5) is mounted uncovered, the kernel lets no user namespace mount one:
	// mount_too_revealing in fs/namespace.c.
	whole := filepath.Join(Dir(), "proc")
	if err := os.MkdirAll(whole, 0o755); err != nil {
		return err
	}
	if err := mount("proc", whole, "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return err
	}
	return mount(file, bootID, "", unix.MS_BIND, "")
}
