package monitor

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// inCgroup runs fn so that the process it starts, with attr, is in the cgroup at path
// from its first moment, in every hierarchy that has the path. An empty path is the
// caller's own cgroup.
func inCgroup(path string, attr *syscall.SysProcAttr, fn func() error) error {
	if path == "" {
		return fn()
	}
	v1, v2 := cgroupDirs(path)
	if len(v1) == 0 && v2 == "" {
		return fmt.Errorf("join cgroup %s: %w", path, errdefs.ErrFailedPrecondition)
	}
	if v2 != "" {
		dir, err := os.Open(v2)
		if err != nil {
			return fmt.Errorf("join cgroup %s: %w", path, err)
		}
		defer dir.Close()
		attr.UseCgroupFD, attr.CgroupFD = true, int(dir.Fd())
	}
	if len(v1) == 0 {
		return fn()
	}
	own := cgroupLines("/proc/self/cgroup")
	return onOwnThread(func() error {
		for _, dir := range v1 { // in v1 a thread can go alone; its children follow it
			if err := os.WriteFile(filepath.Join(dir, "tasks"), []byte("0"), 0); err != nil {
				return fmt.Errorf("join cgroup %s: %w", path, err)
			}
			// Back again, for the thread ends only after the caller has been answered.
			defer goHome(strings.TrimSuffix(dir, filepath.Clean("/"+path)), own)
		}
		return fn()
	})
}

// goHome takes the thread back to the process's cgroup in the hierarchy at root. Where
// that fails the thread takes itself away.
func goHome(root string, own map[string]string) {
	for name := range strings.SplitSeq(filepath.Base(root), ",") {
		for _, key := range []string{name, "name=" + name} {
			if path, ok := own[key]; ok {
				_ = os.WriteFile(filepath.Join(root, path, "tasks"), []byte("0"), 0)
				return
			}
		}
	}
}

// cgroupDirs finds the directories of a cgroup: of each v1 hierarchy and of v2.
func cgroupDirs(path string) (v1 []string, v2 string) {
	if strings.Contains("/"+path+"/", "/../") {
		return nil, ""
	}
	roots := []string{cgroupRoot}
	if entries, err := os.ReadDir(cgroupRoot); err == nil {
		for _, e := range entries {
			if e.IsDir() { // names of several controllers are links
				roots = append(roots, filepath.Join(cgroupRoot, e.Name()))
			}
		}
	}
	for _, root := range roots {
		var st unix.Statfs_t
		if unix.Statfs(root, &st) != nil {
			continue
		}
		dir := filepath.Join(root, path)
		switch {
		case st.Type == unix.CGROUP_SUPER_MAGIC && exists(dir+"/tasks"):
			v1 = append(v1, dir)
		case st.Type == unix.CGROUP2_SUPER_MAGIC && v2 == "" && exists(dir+"/cgroup.procs"):
			v2 = dir
			if root == cgroupRoot {
				return nil, v2 // what lies below are cgroups, not hierarchies
			}
		case st.Type == unix.CGROUP2_SUPER_MAGIC && root == cgroupRoot:
			return nil, ""
		}
	}
	return v1, v2
}
