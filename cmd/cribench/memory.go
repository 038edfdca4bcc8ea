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

	"golang.org/x/sys/unix"
)

// usage is the memory of some processes together, in bytes.
type usage struct {
	Processes int    `json:"processes"`
	PSS       uint64 `json:"pss"` // shared pages divided among those who share them
	RSS       uint64 `json:"rss"`
	// Available is what the whole machine has left.
	Available uint64 `json:"available"`
}

// processMemory adds up the processes that are named by program or by pid.
func processMemory(which []string) (usage, error) {
	var u usage
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return u, err
	}
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		if !slices.Contains(which, e.Name()) && !slices.Contains(which, program(e.Name())) {
			continue
		}
		data, err := os.ReadFile(filepath.Join("/proc", e.Name(), "smaps_rollup"))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // ended meanwhile
		}
		if err != nil {
			return u, fmt.Errorf("read the memory of process %s: %w", e.Name(), err)
		}
		u.Processes++
		u.PSS += field(data, "Pss:")
		u.RSS += field(data, "Rss:")
	}
	data, err := os.ReadFile("/proc/meminfo")
	u.Available = field(data, "MemAvailable:")
	return u, err
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
