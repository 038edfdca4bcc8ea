package vmsandbox

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/sandbox"
	"github.com/cricket-cri/cricket/sandbox/netns"
	"github.com/cricket-cri/cricket/vmsandbox/agent"
	"github.com/cricket-cri/cricket/vmsandbox/network"
)

// Stat fills s with what the pod costs the host, the hypervisor and the guest's kernel
// included; what only the guest knows is the guest's.
func (p *pod) Stat(ctx context.Context, s *sandbox.Stat) error {
	if p.machine == nil {
		return fmt.Errorf("measure sandbox: %w", errdefs.ErrNotFound)
	}
	*s = sandbox.Stat{}
	if guest, err := p.guestStat(ctx); err == nil {
		s.Stat = guest.value.Pod
	}
	s.At = time.Now()
	var host runtime.Stat
	if err := p.driver.cgroup.Stat(p.machineCgroup(), &host); err == nil {
		s.CPUNanos, s.CPUUserNanos, s.CPUSystemNanos = host.CPUNanos, host.CPUUserNanos, host.CPUSystemNanos
	}
	if bytes, ok := ownMemory(p.machine.Pid()); ok {
		s.Memory.Usage, s.Memory.WorkingSet, s.Memory.RSS = &bytes, &bytes, &bytes
	}
	counters, err := netns.Counters(p.snapshot().NetNS)
	if err != nil {
		return nil //nolint:nilerr // the machine is being removed
	}
	s.Network = slices.DeleteFunc(counters, func(n runtime.NetworkStat) bool { return n.Name == network.Tap })
	return nil
}

// ownMemory is what a process does not share with others, in bytes. A cgroup does not tell:
// what the machine occupied before it was claimed is charged elsewhere.
func ownMemory(pid int) (bytesOwn uint64, ok bool) {
	content, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/smaps_rollup")
	if err != nil {
		return 0, false
	}
	for lines := bufio.NewScanner(bytes.NewReader(content)); lines.Scan(); {
		fields := bytes.Fields(lines.Bytes())
		if len(fields) == 3 && bytes.HasPrefix(fields[0], []byte("Private_")) {
			kib, _ := strconv.ParseUint(string(fields[1]), 10, 64)
			bytesOwn += kib << 10
		}
	}
	return bytesOwn, true
}

// Stat fills s with the container's figures in the guest.
func (c *container) Stat(ctx context.Context, s *runtime.Stat) error {
	guest, err := c.pod.guestStat(ctx)
	if err != nil {
		return err
	}
	own, ok := guest.value.Containers[c.name()]
	if !ok {
		return fmt.Errorf("measure container: %w", errdefs.ErrNotFound)
	}
	*s = own
	s.At = guest.at // the guest's clock is another
	return nil
}

// Processes counts what the container's processes have open in the guest.
func (c *container) Processes(ctx context.Context) (runtime.ProcessStat, error) {
	guest, err := c.pod.figures.processes.fresh(ctx, c.pod, agent.Guest.Processes)
	if err != nil {
		return runtime.ProcessStat{}, err
	}
	own, ok := guest.value[c.name()]
	if !ok {
		return runtime.ProcessStat{}, fmt.Errorf("count processes of container: %w", errdefs.ErrNotFound)
	}
	return own, nil
}

// DiskUsage is what is in use on the disk of the writable layer; containers that share one
// are told equal parts.
func (c *container) DiskUsage(ctx context.Context) (runtime.DiskUsage, error) {
	slot := c.record().Slot
	guest, err := c.pod.guestStat(ctx)
	if err != nil {
		return runtime.DiskUsage{}, err
	}
	users, err := c.pod.writableUsers()
	if err != nil {
		return runtime.DiskUsage{}, err
	}
	usage := guest.value.Disks[slot]
	if n := uint64(len(users[slot])); n > 1 {
		usage.Bytes, usage.Inodes = usage.Bytes/n, usage.Inodes/n
	}
	usage.At = guest.at
	return usage, nil
}
