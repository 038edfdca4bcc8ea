package monitor

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const cgroupRoot = "/sys/fs/cgroup"

// cgroup holds the directories of a container's cgroup; empty where there is none that
// belongs to the container alone.
type cgroup struct {
	Unified string `json:"unified,omitempty"`
	Memory  string `json:"memory,omitempty"`  // v1
	Freezer string `json:"freezer,omitempty"` // v1
	Pids    string `json:"pids,omitempty"`    // v1
	// Above are the cgroups over Unified, the nearest first.
	Above []ancestor `json:"above,omitempty"`
}

// ancestor is a cgroup and how often the kernel had killed in it or below when the
// container was made.
type ancestor struct {
	Dir      string `json:"dir"`
	OOMKills uint64 `json:"oomKills"`
}

// cgroupOf finds the cgroup of a process. What it shares with this process is left
// out: it is not the container's, and must not be killed.
func cgroupOf(pid int) cgroup {
	own := cgroupLines("/proc/self/cgroup")
	var c cgroup
	for controller, path := range cgroupLines("/proc/" + strconv.Itoa(pid) + "/cgroup") {
		if path == "/" || path == own[controller] || strings.Contains(path, "..") {
			continue
		}
		switch controller {
		case "":
			if _, err := os.Stat(cgroupRoot + path + "/cgroup.procs"); err == nil {
				c.Unified = cgroupRoot + path
				c.Above = ancestors(cgroupRoot, path)
			}
		case "memory":
			c.Memory = cgroupRoot + "/memory" + path
		case "freezer":
			c.Freezer = cgroupRoot + "/freezer" + path
		case "pids":
			c.Pids = cgroupRoot + "/pids" + path
		}
	}
	return c
}

// cgroupLines parses a /proc/PID/cgroup file: controller to path, "" for v2.
func cgroupLines(file string) map[string]string {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	paths := make(map[string]string)
	for line := range strings.Lines(string(b)) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(parts) != 3 {
			continue
		}
		for controller := range strings.SplitSeq(parts[1], ",") {
			paths[controller] = parts[2]
		}
	}
	return paths
}

// ancestors are the cgroups over the one at path, without the root, which has no
// memory.events.
func ancestors(root, path string) []ancestor {
	var above []ancestor
	for at := filepath.Dir(path); at != "/" && at != "."; at = filepath.Dir(at) {
		kills, _ := oomKills(root + at + "/memory.events")
		above = append(above, ancestor{root + at, kills})
	}
	return above
}

// oomKilled reports whether the kernel has killed a process in the cgroup for want of
// memory. systemd removes a scope as soon as it is empty, often before this is asked;
// then, if init died of a SIGKILL that nobody here sent (murdered), the nearest cgroup
// over it that still exists tells, for its counter includes the one that is gone.
func (c cgroup) oomKilled(murdered bool) bool {
	if c.Unified == "" {
		kills, _ := oomKills(c.Memory + "/memory.oom_control")
		return c.Memory != "" && kills > 0
	}
	if kills, ok := oomKills(c.Unified + "/memory.events"); ok {
		return kills > 0
	}
	for _, a := range c.Above {
		if kills, ok := oomKills(a.Dir + "/memory.events"); ok {
			return murdered && kills > a.OOMKills
		}
	}
	return false
}

// oomKills reads the counter of kills for want of memory; false if the file is not
// there.
func oomKills(file string) (uint64, bool) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(b)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if name == "oom_kill" {
			n, err := strconv.ParseUint(value, 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}

// tree is the directory whose processes are the container's.
func (c cgroup) tree() string {
	for _, dir := range []string{c.Unified, c.Freezer, c.Pids, c.Memory} {
		if dir != "" {
			return dir
		}
	}
	return ""
}

// pids lists the processes in the cgroup and below it.
func (c cgroup) pids() []int {
	if c.tree() == "" {
		return nil
	}
	var pids []int
	// It returns what the function returns, and that is always nil.
	_ = filepath.WalkDir(c.tree(), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil // it went away meanwhile, or is a file
		}
		b, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		if err != nil {
			return nil
		}
		lines := bufio.NewScanner(bytes.NewReader(b))
		for lines.Scan() {
			if pid, err := strconv.Atoi(lines.Text()); err == nil && pid > 0 && pid != os.Getpid() {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	return pids
}

// killTime bounds how long a cgroup that forks faster than it dies is fought.
const killTime = 10 * time.Second

// kill ends every process of the cgroup, also of a frozen one, and returns when none
// is left or killTime has passed.
func (c cgroup) kill() error {
	if c.tree() == "" {
		return nil
	}
	if c.Unified != "" {
		c.thaw()
		err := os.WriteFile(c.Unified+"/cgroup.kill", []byte("1"), 0)
		if err == nil || errors.Is(err, os.ErrNotExist) && !exists(c.Unified) {
			return nil
		}
	}
	pause := time.Millisecond
	for waited := time.Duration(0); waited < killTime; waited += pause {
		alive := 0
		for _, pid := range c.pids() {
			if st, err := readProc(pid); err != nil || st.dead() {
				continue
			}
			alive++
			unix.Kill(pid, unix.SIGKILL)
		}
		if alive == 0 {
			return nil
		}
		c.thaw() // a frozen process takes its SIGKILL when it is thawed
		time.Sleep(pause)
		pause = min(pause*2, 50*time.Millisecond)
	}
	return errors.New("kill cgroup: it forks faster than it can be killed")
}

// thaw cannot say that it failed: then the processes stay, and kill says so.
func (c cgroup) thaw() {
	if c.Unified != "" {
		_ = os.WriteFile(c.Unified+"/cgroup.freeze", []byte("0"), 0)
		return
	}
	if c.Freezer == "" {
		return
	}
	if b, err := os.ReadFile(c.Freezer + "/freezer.state"); err == nil && strings.TrimSpace(string(b)) != "THAWED" {
		_ = os.WriteFile(c.Freezer+"/freezer.state", []byte("THAWED"), 0)
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// freezeTick is how often a cgroup is asked whether it has come to rest.
const freezeTick = 5 * time.Millisecond

// freeze stops every process of the cgroup and returns when all stand still.
func (c cgroup) freeze(ctx context.Context) error {
	file, text, at, want := c.Unified+"/cgroup.freeze", "1", c.Unified+"/cgroup.events", "frozen 1"
	if c.Unified == "" {
		file, text = c.Freezer+"/freezer.state", "FROZEN"
		at, want = file, text
	}
	if c.Unified == "" && c.Freezer == "" {
		return fmt.Errorf("freeze container, which has no cgroup of its own: %w", errdefs.ErrFailedPrecondition)
	}
	tick := time.NewTicker(freezeTick)
	defer tick.Stop()
	for {
		// Again and again: version 1 misses processes that are made meanwhile.
		if err := os.WriteFile(file, []byte(text), 0); err != nil {
			return fmt.Errorf("freeze container: %w: %w", errdefs.ErrFailedPrecondition, err)
		}
		b, err := os.ReadFile(at)
		if err != nil {
			return fmt.Errorf("freeze container: %w: %w", errdefs.ErrFailedPrecondition, err)
		}
		if slices.Contains(strings.Split(strings.TrimSpace(string(b)), "\n"), want) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("freeze container: %w", ctx.Err())
		case <-tick.C:
		}
	}
}
