package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// killBudget bounds the rounds of Kill where the kernel cannot do it at once.
const killBudget = 5 * time.Second

// Kill sends SIGKILL to every process in and below the cgroup at path, and to those
// that they make meanwhile. It does not wait until they are gone.
func (t *Tree) Kill(path string) error {
	if err := checkPath(path); err != nil {
		return err
	}
	if t.Unified() {
		err := os.WriteFile(t.file(v2, path, "cgroup.kill"), []byte("1"), 0)
		if err == nil || !t.Exists(path) {
			return nil
		}
		if !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("kill cgroup: %w", err)
		}
	}
	// Frozen processes make no new ones; they die when they thaw.
	state := t.file("freezer", path, "freezer.state")
	frozen := !t.Unified() && state != "" && os.WriteFile(state, []byte("FROZEN"), 0) == nil
	err := t.killRounds(path, frozen)
	if frozen {
		if thaw := os.WriteFile(state, []byte("THAWED"), 0); thaw != nil && t.Exists(path) {
			err = errors.Join(err, fmt.Errorf("thaw cgroup: %w", thaw))
		}
	}
	return err
}

// killRounds kills until nobody is left; frozen processes need one round.
func (t *Tree) killRounds(path string, frozen bool) error {
	for deadline := time.Now().Add(killBudget); ; time.Sleep(time.Millisecond) {
		pids, err := t.Pids(path)
		if err != nil || len(pids) == 0 {
			return err
		}
		for _, pid := range pids {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && err != unix.ESRCH {
				return fmt.Errorf("kill process %d of cgroup: %w", pid, err)
			}
		}
		if frozen {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("kill cgroup: %d processes are left after %s", len(pids), killBudget)
		}
	}
}

// Pids lists the processes in and below the cgroup at path; none if it does not exist.
func (t *Tree) Pids(path string) ([]int, error) {
	for _, controller := range []string{"pids", "memory", "freezer", "cpu"} {
		if file := t.file(controller, path, ""); file != "" {
			return pidsBelow(file)
		}
	}
	return nil, nil
}

func pidsBelow(dir string) ([]int, error) {
	content, err := os.ReadFile(dir + "/cgroup.procs")
	if gone(err) {
		return nil, nil
	}
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) { // threaded v2 cgroups have no list
		return nil, fmt.Errorf("list processes of cgroup: %w", err)
	}
	var pids []int
	for line := range bytes.FieldsSeq(content) {
		if pid, err := strconv.Atoi(string(line)); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	for _, child := range children(dir) {
		more, err := pidsBelow(child)
		if err != nil {
			return nil, err
		}
		pids = append(pids, more...)
	}
	return pids, nil
}
