package vmsandbox

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/sandbox"
	"github.com/cricket-cri/cricket/sandbox/netns"
	"github.com/cricket-cri/cricket/vmsandbox/agent"
	"github.com/cricket-cri/cricket/vmsandbox/network"
)

// figuresAge is how long a guest's figures serve: one answer has those of all containers,
// which are asked for one by one.
const figuresAge = 300 * time.Millisecond

type figures struct {
	stat      answer[agent.Stat]
	processes answer[map[string]runtime.ProcessStat]
}

// answer is what a guest has said last.
type answer[T any] struct {
	mu   sync.Mutex
	at   time.Time
	last T
}

// fresh is the last answer, or a new one.
func (a *answer[T]) fresh(ctx context.Context, p *pod, ask func(agent.Guest, context.Context) (T, error)) (T, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if time.Since(a.at) < figuresAge {
		return a.last, nil
	}
	err := p.guest(ctx, callBudget, func(ctx context.Context) (err error) {
		a.last, err = ask(p.machine.Guest, ctx)
		return err
	})
	if err != nil {
		var none T
		return none, fmt.Errorf("measure guest: %w", err)
	}
	a.at = time.Now()
	return a.last, nil
}

// guestStat asks the guest for the figures of all its containers.
func (p *pod) guestStat(ctx context.Context) (agent.Stat, error) {
	return p.figures.stat.fresh(ctx, p, agent.Guest.Stat)
}

// Stat fills s with what the pod costs the host, the hypervisor and the guest's kernel
// included; what only the guest knows is the guest's.
func (p *pod) Stat(ctx context.Context, s *sandbox.Stat) error {
	if p.machine == nil {
		return fmt.Errorf("measure sandbox: %w", errdefs.ErrNotFound)
	}
	*s = sandbox.Stat{}
	guest, err := p.guestStat(ctx)
	if err == nil {
		s.Stat = guest.Pod
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
	all, err := c.pod.guestStat(ctx)
	if err != nil {
		return err
	}
	own, ok := all.Containers[c.name()]
	if !ok {
		return fmt.Errorf("measure container: %w", errdefs.ErrNotFound)
	}
	*s = own
	s.At = time.Now() // the guest's clock is another
	return nil
}

// Processes counts what the container's processes have open in the guest.
func (c *container) Processes(ctx context.Context) (runtime.ProcessStat, error) {
	all, err := c.pod.figures.processes.fresh(ctx, c.pod, agent.Guest.Processes)
	if err != nil {
		return runtime.ProcessStat{}, err
	}
	own, ok := all[c.name()]
	if !ok {
		return runtime.ProcessStat{}, fmt.Errorf("count processes of container: %w", errdefs.ErrNotFound)
	}
	return own, nil
}

// DiskUsage is what is in use on the disk of the writable layer; containers that share one
// are told equal parts.
func (c *container) DiskUsage(ctx context.Context) (runtime.DiskUsage, error) {
	slot := c.record().Slot
	all, err := c.pod.guestStat(ctx)
	if err != nil {
		return runtime.DiskUsage{}, err
	}
	users, err := c.pod.writableUsers()
	if err != nil {
		return runtime.DiskUsage{}, err
	}
	usage := all.Disks[slot]
	if n := uint64(len(users[slot])); n > 1 {
		usage.Bytes, usage.Inodes = usage.Bytes/n, usage.Inodes/n
	}
	usage.At = time.Now()
	return usage, nil
}
