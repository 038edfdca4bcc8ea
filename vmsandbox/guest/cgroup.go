package guest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/vmsandbox/agent"
)

// cgroupRoot is the only hierarchy, version 2.
const cgroupRoot = "/sys/fs/cgroup"

// ownCgroup is process 1's. The containers are below agent.PodCgroup.
const ownCgroup = "/init"

// Memory that containers never get, in bytes: process 1 and the kernel live on it. If
// containers want more than the rest they are killed for it, one of them, rather than the
// kernel looking for a victim in the whole machine.
const (
	reservedMemory  = 48 << 20
	protectedMemory = 24 << 20 // of that, process 1's own, which is not reclaimed
)

// prepareCgroups makes the groups and moves process 1 into its own.
func prepareCgroups() error {
	for _, dir := range []string{ownCgroup, agent.PodCgroup} {
		if err := os.MkdirAll(cgroupRoot+dir, 0o755); err != nil {
			return fmt.Errorf("make cgroup %s: %w", dir, err)
		}
	}
	if err := writeCgroup(ownCgroup, "cgroup.procs", "0"); err != nil {
		return err
	}
	for _, dir := range []string{"", agent.PodCgroup} {
		if err := enableControllers(dir); err != nil {
			return err
		}
	}
	if err := writeCgroup(ownCgroup, "memory.min", strconv.Itoa(protectedMemory)); err != nil {
		return err
	}
	total, err := memoryTotal()
	if err != nil {
		return err
	}
	return writeCgroup(agent.PodCgroup, "memory.max", strconv.FormatUint(podMemory(0, total), 10))
}

// enableControllers gives a group's children every controller that there is.
func enableControllers(dir string) error {
	text, err := readCgroup(dir, "cgroup.controllers")
	if err != nil {
		return err
	}
	for name := range strings.FieldsSeq(text) {
		// One that cannot be given, as rdma without devices, is one that nobody needs.
		err := writeCgroup(dir, "cgroup.subtree_control", "+"+name)
		if err != nil && (name == "cpu" || name == "memory" || name == "pids") {
			return err
		}
	}
	return nil
}

// podMemory is the limit of all containers together: what is wanted (0 for none), but at
// most what the machine can spare.
func podMemory(wanted, total uint64) uint64 {
	most := total / 2
	if total > 2*reservedMemory {
		most = total - reservedMemory
	}
	if wanted == 0 || wanted > most {
		return most
	}
	return wanted
}

func readCgroup(dir, file string) (string, error) {
	b, err := os.ReadFile(filepath.Join(cgroupRoot, dir, file))
	if err != nil {
		return "", fmt.Errorf("read cgroup: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

func writeCgroup(dir, file, value string) error {
	// One write, without O_TRUNC and O_CREAT, which mean nothing there.
	f, err := os.OpenFile(filepath.Join(cgroupRoot, dir, file), os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("write cgroup: %w", err)
	}
	_, err = f.WriteString(value)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %q to %s of cgroup %s: %w", value, file, dir, err)
	}
	return nil
}

// memoryTotal is the machine's memory in bytes, without what the kernel keeps to itself.
func memoryTotal() (uint64, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0, fmt.Errorf("read size of memory: %w", err)
	}
	return info.Totalram * uint64(info.Unit), nil
}
