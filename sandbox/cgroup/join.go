package cgroup

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Join moves a process with all its threads into the cgroup at path, in every hierarchy.
// What the process occupies already stays charged to where it was. errdefs.ErrNotFound:
// there is no such process or cgroup.
func (t *Tree) Join(path string, pid int) error {
	if err := checkPath(path); err != nil {
		return err
	}
	for _, root := range t.roots() {
		err := os.WriteFile(root+path+"/cgroup.procs", []byte(strconv.Itoa(pid)), 0)
		if gone(err) || errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("join cgroup: %w: %w", errdefs.ErrNotFound, err)
		}
		if err != nil {
			return fmt.Errorf("join cgroup: %w", err)
		}
	}
	return nil
}
