package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// usage is the memory that some processes take together, in bytes.
type usage struct {
	processes int
	pss       uint64 // shared pages divided among those who share them
	rss       uint64
	// available is the memory that the whole machine has left.
	available uint64
}

// clockTick is the unit of processor time in proc(5): USER_HZ, which is 100 on Linux.
const clockTick = 10 * time.Millisecond

// memoryOf adds up the processes that are named by program or by pid.
func memoryOf(which []string) (usage, error) {
	var u usage
	pids, err := find(which)
	if err != nil {
		return u, err
	}
	for _, pid := range pids {
		data, err := os.ReadFile(filepath.Join("/proc", pid, "smaps_rollup"))
		if gone(err) {
			continue
		}
		if err != nil {
			return u, fmt.Errorf("read the memory of process %s: %w", pid, err)
		}
		u.processes++
		u.pss += field(data, "Pss:")
		u.rss += field(data, "Rss:")
	}
	if u.processes == 0 {
		return u, fmt.Errorf("no process is called %s: see --processes", strings.Join(which, " or "))
	}
	data, err := os.ReadFile("/proc/meminfo")
	u.available = field(data, "MemAvailable:")
	return u, err
}

// cpuOf is the processor time that processes have used so far. Those that end take theirs
// along.
func cpuOf(which []string) (time.Duration, error) {
	pids, err := find(which)
	if err != nil {
		return 0, err
	}
	total := time.Duration(0)
	for _, pid := range pids {
		data, err := os.ReadFile(filepath.Join("/proc", pid, "stat"))
		if gone(err) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("read the processor time of process %s: %w", pid, err)
		}
		ticks, err := statTicks(data)
		if err != nil {
			return 0, fmt.Errorf("process %s: %w", pid, err)
		}
		total += time.Duration(ticks) * clockTick
	}
	return total, nil
}

// statTicks are user and system time of a process, the 14th and 15th field of its stat file:
// proc_pid_stat(5). The second one may hold anything, in parentheses.
func statTicks(stat []byte) (uint64, error) {
	end := bytes.LastIndexByte(stat, ')')
	f := strings.Fields(string(stat[end+1:]))
	if end < 0 || len(f) < 13 {
		return 0, fmt.Errorf("%.60q is no status of a process", stat)
	}
	user, errUser := strconv.ParseUint(f[11], 10, 64)
	system, errSystem := strconv.ParseUint(f[12], 10, 64)
	return user + system, errors.Join(errUser, errSystem)
}

func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) }

// find is the pids of the processes that are named by program or by pid.
func find(which []string) ([]string, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []string
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		if slices.Contains(which, e.Name()) || slices.Contains(which, program(e.Name())) {
			pids = append(pids, e.Name())
		}
	}
	return pids, nil
}

// program is the name under which a process was started.
func program(pid string) string {
	data, err := os.ReadFile(filepath.Join("/proc", pid, "cmdline"))
	if err != nil {
		return ""
	}
	first, _, _ := bytes.Cut(data, []byte{0})
	return filepath.Base(string(first))
}

// field is the value of a line "NAME: N kB" in bytes.
func field(rollup []byte, name string) uint64 {
	for line := range strings.Lines(string(rollup)) {
		f := strings.Fields(line)
		if len(f) == 3 && f[0] == name {
			kib, _ := strconv.ParseUint(f[1], 10, 64)
			return kib << 10
		}
	}
	return 0
}
