package cgroup

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime/cgroupstat"
)

// v2 is the key of the only mount of a unified tree.
const v2 = ""

// Tree is the node's cgroups. Its methods are safe for concurrent use.
type Tree struct {
	// mounts holds the mount point of each controller (v1; named hierarchies as
	// name=X), or the one of v2 alone.
	mounts map[string]string
	// beside is the mount point of v2 on a hybrid node. It limits nothing, but OCI runtimes
	// make cgroups there, parents included, and would leave the parents.
	beside string
	// options are those of MountOptions.
	options []string
	meter   *cgroupstat.Meter
}

func newTree(mounts map[string]string) *Tree {
	return &Tree{mounts: mounts, meter: cgroupstat.New()}
}

// Open finds the cgroup mounts of this process. A node on which any controller of v1
// manages processes or memory counts as v1, also if v2 is mounted beside it (hybrid).
func Open() (*Tree, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("find cgroups: %w", err)
	}
	defer func() { _ = f.Close() }()
	return parseMounts(f)
}

func parseMounts(mountinfo io.Reader) (*Tree, error) {
	mounts, unified := map[string]string{}, ""
	var options []string
	lines := bufio.NewScanner(mountinfo)
	lines.Buffer(nil, 1<<20) // overlays of many layers have long lines
	for lines.Scan() {
		before, after, found := strings.Cut(lines.Text(), " - ")
		place, super := strings.Fields(before), strings.Fields(after)
		if !found || len(place) < 5 || len(super) < 3 {
			continue
		}
		switch super[0] {
		case "cgroup2":
			if unified == "" {
				unified = place[4]
				options = delegation(super[2])
			}
		case "cgroup":
			for _, option := range strings.Split(super[2], ",") {
				if isController(option) || strings.HasPrefix(option, "name=") {
					mounts[option] = place[4]
				}
			}
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("find cgroups: %w", err)
	}
	if mounts["memory"] != "" || mounts["pids"] != "" || mounts["cpu"] != "" {
		t := newTree(mounts)
		t.beside = unified
		return t, nil
	}
	if unified == "" {
		return nil, fmt.Errorf("no cgroup hierarchy is mounted: %w", errdefs.ErrFailedPrecondition)
	}
	t := newTree(map[string]string{v2: unified})
	t.options = options
	return t, nil
}

func delegation(super string) []string {
	return slices.DeleteFunc(strings.Split(super, ","), func(o string) bool {
		return o != "nsdelegate" && o != "memory_recursiveprot"
	})
}

// isController says of an option of a v1 mount that it names a controller.
func isController(option string) bool {
	switch option {
	case "cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "hugetlb",
		"net_cls", "net_prio", "perf_event", "rdma", "misc":
		return true
	}
	return false
}

// Unified says whether the node is on cgroup v2.
func (t *Tree) Unified() bool { return t.mounts[v2] != "" }

// file is the file of a controller in the cgroup at path, "" if it is not mounted.
func (t *Tree) file(controller, path, name string) string {
	root := t.mounts[v2]
	if root == "" {
		root = t.mounts[controller]
	}
	if root == "" {
		return ""
	}
	return root + path + "/" + name
}

// roots are the distinct mount points, in a fixed order.
func (t *Tree) roots() []string {
	var roots []string
	for _, mount := range t.mounts {
		roots = append(roots, mount)
	}
	slices.Sort(roots)
	return slices.Compact(roots)
}

// all are the mount points where cgroups of this node's pods can be.
func (t *Tree) all() []string {
	if t.beside == "" {
		return t.roots()
	}
	return append(t.roots(), t.beside)
}

func checkPath(path string) error {
	if path == "/" || !filepath.IsAbs(path) || filepath.Clean(path) != path {
		return fmt.Errorf("cgroup path %q: %w", path, errdefs.ErrInvalidArgument)
	}
	return nil
}

// Exists says whether the cgroup at path exists in any hierarchy.
func (t *Tree) Exists(path string) bool {
	for _, root := range t.all() {
		if unix.Access(root+path, unix.F_OK) == nil {
			return true
		}
	}
	return false
}

// made is the mode of a cgroup that Make made: the sticky bit, which nobody else sets on a
// cgroup, says so. It lies on the cgroup itself, so it needs no record beside it, is shared
// by all pods and goes with the cgroup; and it is there from the first moment: an extended
// attribute set after mkdir is missing for good if the daemon is killed between the two.
const made = unix.S_ISVTX | 0o755

// Make makes the cgroup at path and those above it, wherever they are missing, and marks
// what it made, for Prune: another program may have made the cgroup in some hierarchies
// only, as a kubelet does.
func (t *Tree) Make(path string) error {
	if err := checkPath(path); err != nil {
		return err
	}
	for _, root := range t.all() {
		if err := t.makeBelow(root, path); err != nil {
			t.Prune(path)
			return fmt.Errorf("make cgroup: %w", err)
		}
	}
	return nil
}

// makeBelow starts again if an empty parent is removed under its feet by the Remove of
// a neighbour.
func (t *Tree) makeBelow(root, path string) (err error) {
	for range 10 {
		err = t.makeOnce(root, path)
		if !gone(err) {
			break
		}
	}
	return err
}

// gone says of an error that the cgroup is not there (any more): the kernel answers ENODEV
// where it was removed between the lookup of its name and the use (cgroup_mkdir in
// kernel/cgroup/cgroup.c, kernfs_fop_open in fs/kernfs/file.c).
func gone(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV)
}

func (t *Tree) makeOnce(root, path string) error {
	at := ""
	for _, name := range strings.Split(path[1:], "/") {
		parent := at
		at += "/" + name
		if t.Unified() {
			delegate(root + parent)
		}
		err := unix.Mkdir(root+at, made)
		if err != nil && !errors.Is(err, os.ErrExist) {
			return &os.PathError{Op: "mkdir", Path: root + at, Err: err}
		}
		if err := t.prepare(root, parent, at, err == nil); err != nil {
			return err
		}
	}
	return nil
}

// delegate enables every controller for the children of a v2 cgroup. What cannot be
// enabled is simply not limited: the runtime says so if a container needs it.
func delegate(dir string) {
	available, err := os.ReadFile(dir + "/cgroup.controllers")
	if err != nil {
		return
	}
	enabled, _ := os.ReadFile(dir + "/cgroup.subtree_control")
	have := strings.Fields(string(enabled))
	for _, c := range strings.Fields(string(available)) {
		if !slices.Contains(have, c) {
			_ = os.WriteFile(dir+"/cgroup.subtree_control", []byte("+"+c), 0)
		}
	}
}

// prepare gives a v1 cgroup what it needs to hold processes and, if it is new, to count
// those of its children. One that exists may still be without processors: who makes it, a
// neighbour or a daemon that was killed, has not come so far.
func (t *Tree) prepare(root, parent, path string, isNew bool) error {
	switch root {
	case t.mounts["memory"]:
		if isNew {
			_ = os.WriteFile(root+path+"/memory.use_hierarchy", []byte("1"), 0)
		}
	case t.mounts["cpuset"]:
		for _, name := range []string{"/cpuset.cpus", "/cpuset.mems"} {
			if err := inherit(root+parent+name, root+path+name); err != nil {
				return err
			}
		}
	}
	return nil
}

// inherit copies a setting of the parent to a cgroup that has none.
func inherit(parent, file string) error {
	own, err := os.ReadFile(file)
	if err != nil || len(bytes.TrimSpace(own)) > 0 {
		return err
	}
	inherited, err := os.ReadFile(parent)
	if err != nil {
		return err
	}
	return os.WriteFile(file, inherited, 0)
}

// Remove removes the cgroup at path, with those below it. It is idempotent. Processes
// must be gone or going: it waits up to a second for them.
func (t *Tree) Remove(path string) error {
	if err := checkPath(path); err != nil {
		return err
	}
	for _, root := range t.all() {
		if err := removeTree(root + path); err != nil {
			return fmt.Errorf("remove cgroup: %w", err)
		}
	}
	return nil
}

// Prune removes the cgroup at path and those above it, in each hierarchy, as long as they
// are empty and Make made them. Those that another program made stay.
func (t *Tree) Prune(path string) {
	if checkPath(path) != nil {
		return
	}
	for _, root := range t.all() {
		for at := path; at != "/" && pruned(root+at); {
			at = filepath.Dir(at)
		}
	}
}

// pruned says that there is no such cgroup (any more); one that is in use, or another's,
// stays.
func pruned(dir string) bool {
	var is unix.Stat_t
	err := unix.Lstat(dir, &is)
	if err == nil && is.Mode&unix.S_ISVTX == 0 {
		return false
	}
	if err == nil {
		err = unix.Rmdir(dir)
	}
	return err == nil || gone(err)
}

func removeTree(dir string) error {
	err := unix.Rmdir(dir)
	if err == nil || gone(err) {
		return nil
	}
	for _, child := range children(dir) {
		if err := removeTree(child); err != nil {
			return err
		}
	}
	// A killed process leaves its cgroup only when it has been torn down.
	for wait := time.Millisecond; wait < time.Second; wait *= 2 {
		if err = unix.Rmdir(dir); err == nil || gone(err) {
			return nil
		}
		time.Sleep(wait)
	}
	return fmt.Errorf("%s: %w", dir, err)
}

func children(dir string) []string {
	entries, _ := os.ReadDir(dir)
	var dirs []string
	for _, e := range entries {
		if e.IsDir() {
			dirs = append(dirs, filepath.Join(dir, e.Name()))
		}
	}
	return dirs
}

// MountOptions are the options of the cgroup2 file system that every other mount of it
// has to repeat, or the host loses them; none on v1.
func (t *Tree) MountOptions() []string { return slices.Clone(t.options) }
