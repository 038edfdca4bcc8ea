package harness

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
)

// Snapshot is what a node holds at one time, as lines of text with their counts.
type Snapshot map[string]int

// Observe lists the node's mounts, processes, network namespaces, links, cgroups and
// iptables or nft rules, and the files below the given directories (IP leases,
// containers' directories). It leaves out the calling process.
func Observe(dirs ...string) (Snapshot, error) {
	s := Snapshot{}
	err := errors.Join(s.mounts(), s.processes(), s.links(), s.tree("cgroup", "/sys/fs/cgroup", true), s.rules())
	for _, d := range append(dirs, "/run/netns") {
		err = errors.Join(err, s.tree("file", d, false))
	}
	if err != nil {
		return nil, fmt.Errorf("observe the node: %w", err)
	}
	return s, nil
}

// Leaks lists what after has more of than s.
func (s Snapshot) Leaks(after Snapshot) []string {
	var leaks []string
	for _, line := range slices.Sorted(maps.Keys(after)) {
		if n := after[line] - s[line]; n > 0 {
			leaks = append(leaks, fmt.Sprintf("%s (%d more)", line, n))
		}
	}
	return leaks
}

func (s Snapshot) add(kind, line string) { s[kind+" "+line]++ }

func (s Snapshot) mounts() error {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(data)) {
		before, after, _ := strings.Cut(strings.TrimSpace(line), " - ")
		f, tail := strings.Fields(before), strings.Fields(after)
		s.add("mount", f[4]+" "+tail[0])
	}
	return nil
}

func (s Snapshot) processes() error {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	self := map[int]bool{os.Getpid(): true}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || self[pid] {
			continue
		}
		state, start, err := ProcessStat(pid)
		if err != nil {
			continue // ended meanwhile
		}
		command, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		args := strings.TrimSpace(strings.ReplaceAll(string(command), "\x00", " "))
		s.add("process", fmt.Sprintf("%d started %s state %s: %s", pid, start, state, args))
	}
	return nil
}

// ProcessStat is a process's state, a letter, and its start time in clock ticks since boot,
// which with the pid names the process for good: proc(5).
func ProcessStat(pid int) (state, start string, err error) {
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return "", "", err
	}
	// The name in parentheses may hold anything; the state follows the last of them.
	f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(f) < 20 {
		return "", "", fmt.Errorf("%q is not what proc(5) says", stat)
	}
	return f[0], f[19], nil
}

func (s Snapshot) links() error {
	links, err := netlink.LinkList()
	if err != nil {
		return err
	}
	for _, l := range links {
		s.add("link", l.Attrs().Name)
	}
	return nil
}

// tree adds the files below root, or its directories only.
func (s Snapshot) tree(kind, root string, dirsOnly bool) error {
	return filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if d.IsDir() == dirsOnly && !kept(p) {
			s.add(kind, p)
		}
		return nil
	})
}

// kept tells whether host-local keeps a file between leases.
func kept(path string) bool {
	name := filepath.Base(path)
	return name == "lock" || strings.HasPrefix(name, "last_reserved_ip")
}

var (
	counters = regexp.MustCompile(`\[\d+:\d+\]`)
	// Comments with times, and built-in chains of tables that the first rule brings.
	noise = regexp.MustCompile(`^(#|\*|COMMIT|:[A-Z]+ [A-Z]+)`)
)

func (s Snapshot) rules() error {
	for _, program := range []string{"iptables-save", "ip6tables-save"} {
		out, err := exec.Command(program).Output()
		if errors.Is(err, exec.ErrNotFound) {
			continue
		}
		if err != nil {
			return fmt.Errorf("list rules: %w", err)
		}
		for line := range strings.Lines(string(out)) {
			line = strings.TrimSpace(counters.ReplaceAllString(line, ""))
			if line != "" && !noise.MatchString(line) {
				s.add(program, line)
			}
		}
	}
	return nil
}
