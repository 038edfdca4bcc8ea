package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/cmd/cribench/figures"
)

// forks is how often /bin/true is started to see how quiet the machine is.
const forks = 50

// lookAtHost describes the machine as it is now: the first of its pairs of figures is set.
func lookAtHost(ctx context.Context) (figures.Host, error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return figures.Host{}, fmt.Errorf("ask for the kernel: %w", err)
	}
	h := figures.Host{Kernel: unix.ByteSliceToString(name.Release[:]), CPUs: runtime.NumCPU(), Processor: processor()}
	info, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return h, err
	}
	h.MemoryMiB = float64(field(info, "MemTotal:")) / mebi
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return h, err
	}
	if _, err := fmt.Sscan(string(load), &h.Load[0]); err != nil {
		return h, fmt.Errorf("read the load: %w", err)
	}
	h.Fork[0], err = forkTime(ctx)
	return h, err
}

// processor is the processor's name.
func processor() string {
	data, err := os.ReadFile("/proc/cpuinfo")
	if err == nil {
		for line := range strings.Lines(string(data)) {
			if name, value, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "model name" {
				return strings.TrimSpace(value)
			}
		}
	}
	return runtime.GOARCH
}

// forkTime is the median time in ms to start a program that does nothing and wait for it.
func forkTime(ctx context.Context) (float64, error) {
	times := make([]float64, forks)
	for i := range times {
		began := time.Now()
		if err := exec.CommandContext(ctx, "/bin/true").Run(); err != nil {
			return 0, fmt.Errorf("see how quiet the machine is: %w", err)
		}
		times[i] = float64(time.Since(began)) / float64(time.Millisecond)
	}
	slices.Sort(times)
	return figures.Quantile(times, 0.5), nil
}
