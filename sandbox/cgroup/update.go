package cgroup

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/cgroups/v3/cgroup1"
	"github.com/containerd/cgroups/v3/cgroup2"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Update changes the limits of the cgroup at path; what r leaves out stays as it is.
// errdefs.ErrInvalidArgument: the kernel refuses a value.
func (t *Tree) Update(path string, r *specs.LinuxResources) error {
	if err := checkPath(path); err != nil {
		return err
	}
	if r == nil {
		return nil
	}
	if !t.Exists(path) {
		return fmt.Errorf("update cgroup: %w", errdefs.ErrNotFound)
	}
	var err error
	if t.Unified() {
		err = t.updateUnified(path, r)
	} else {
		err = t.updateV1(path, r)
	}
	return blame(err)
}

// blame gives an error of the kernel its kind.
func blame(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("update cgroup: the controller is not there: %w: %w", errdefs.ErrFailedPrecondition, err)
	case errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ERANGE):
		return fmt.Errorf("update cgroup: %w: %w", errdefs.ErrInvalidArgument, err)
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("update cgroup: %w: %w", errdefs.ErrFailedPrecondition, err)
	}
	return fmt.Errorf("update cgroup: %w", err)
}

func (t *Tree) updateV1(path string, r *specs.LinuxResources) error {
	group, err := cgroup1.Load(cgroup1.StaticPath(path), cgroup1.WithHierarchy(t.subsystems))
	if err != nil {
		return err
	}
	err = group.Update(r)
	if m := r.Memory; errors.Is(err, unix.EINVAL) && m != nil && m.Limit != nil && m.Swap != nil {
		// Memory must stay below memory and swap together at every moment, so which of the
		// two comes first depends on what they were.
		if err = group.Update(&specs.LinuxResources{Memory: &specs.LinuxMemory{Swap: m.Swap}}); err == nil {
			err = group.Update(r)
		}
	}
	return err
}

// subsystems are the mounted v1 controllers that limit something.
func (t *Tree) subsystems() ([]cgroup1.Subsystem, error) {
	var all []cgroup1.Subsystem
	root := func(controller string) string { return filepath.Dir(t.mounts[controller]) }
	if t.mounts["cpu"] != "" {
		all = append(all, cgroup1.NewCpu(root("cpu")))
	}
	if t.mounts["cpuset"] != "" {
		all = append(all, cgroup1.NewCpuset(root("cpuset")))
	}
	if t.mounts["memory"] != "" {
		all = append(all, cgroup1.NewMemory(root("memory")))
	}
	if t.mounts["pids"] != "" {
		all = append(all, cgroup1.NewPids(root("pids")))
	}
	if t.mounts["hugetlb"] != "" {
		huge, err := cgroup1.NewHugetlb(root("hugetlb"))
		if err != nil {
			return nil, err
		}
		all = append(all, huge)
	}
	return all, nil
}

func (t *Tree) updateUnified(path string, r *specs.LinuxResources) error {
	group, err := cgroup2.Load(path, cgroup2.WithMountpoint(t.mounts[v2]))
	if err != nil {
		return err
	}
	values, files := unifiedResources(r)
	if err := group.Update(values); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := os.WriteFile(t.file(v2, path, name), []byte(files[name]), 0); err != nil {
			return err
		}
	}
	return nil
}

// unifiedResources translates r for v2. What the library has no words for is returned
// as files and their content: "no limit", which v2 spells max, and the files that a
// client named itself. Their names must not lead out of the cgroup.
func unifiedResources(r *specs.LinuxResources) (*cgroup2.Resources, map[string]string) {
	values, files := cgroup2.ToResources(r), map[string]string{}
	if c := r.CPU; c != nil && (c.Quota != nil || c.Period != nil) {
		quota := c.Quota
		if quota != nil && *quota <= 0 {
			quota = nil
		}
		values.CPU.Max = cgroup2.NewCPUMax(quota, c.Period)
	}
	if m := r.Memory; m != nil {
		if m.Limit != nil && *m.Limit < 0 {
			values.Memory.Max, files["memory.max"] = nil, "max"
		}
		switch {
		case m.Swap != nil && *m.Swap < 0:
			values.Memory.Swap, files["memory.swap.max"] = nil, "max"
		case m.Swap != nil && (m.Limit == nil || *m.Limit <= 0 || *m.Swap < *m.Limit):
			values.Memory.Swap = nil // memory and swap together say nothing without a limit of memory
		}
	}
	for name, value := range r.Unified {
		if !strings.Contains(name, "/") {
			files[name] = value
		}
	}
	return values, files
}
