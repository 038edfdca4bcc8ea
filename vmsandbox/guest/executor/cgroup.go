package executor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// cgroup is the directory of a container's cgroup (v2).
type cgroup string

// makeCgroup makes a cgroup below root and those above it. Controllers are handed down
// as far as there are any.
func makeCgroup(root, path string) (cgroup, error) {
	if !filepath.IsAbs(path) || filepath.Clean(path) == "/" {
		return "", fmt.Errorf("make cgroup %q: not an absolute path: %w", path, errdefs.ErrInvalidArgument)
	}
	at := root
	for name := range strings.SplitSeq(strings.Trim(filepath.Clean(path), "/"), "/") {
		if err := delegate(at); err != nil {
			return "", err
		}
		at = filepath.Join(at, name)
		if err := os.Mkdir(at, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return "", fmt.Errorf("make cgroup: %w", err)
		}
	}
	return cgroup(at), nil
}

// delegate lets the children of a cgroup have all controllers that it has.
func delegate(dir string) error {
	has, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("read controllers: %w", err)
	}
	gives, err := os.ReadFile(filepath.Join(dir, "cgroup.subtree_control"))
	if err != nil {
		return fmt.Errorf("read controllers: %w", err)
	}
	given := strings.Fields(string(gives))
	var missing []string
	for _, c := range strings.Fields(string(has)) {
		if !slices.Contains(given, c) {
			missing = append(missing, "+"+c)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	err = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte(strings.Join(missing, " ")), 0)
	if errors.Is(err, unix.EBUSY) { // it has processes itself: then what it gives already has to do
		return nil
	}
	if err != nil {
		return fmt.Errorf("hand down controllers: %w", err)
	}
	return nil
}

func (c cgroup) open() (*os.File, error) {
	fd, err := unix.Open(string(c), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open cgroup: %w", err)
	}
	return os.NewFile(uintptr(fd), string(c)), nil
}

// limit writes limits.
func (c cgroup) limit(r *specs.LinuxResources) error {
	settings, err := limits(r)
	if err != nil {
		return err
	}
	for _, s := range settings {
		err := os.WriteFile(filepath.Join(string(c), s.file), []byte(s.value), 0)
		if errors.Is(err, os.ErrNotExist) && s.optional {
			continue
		}
		if err != nil {
			return fmt.Errorf("set %s to %s: %w", s.file, s.value, errnoOf(err))
		}
	}
	return nil
}

// errnoOf leaves out the path, which the caller names.
func errnoOf(err error) error {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

// removeTime bounds how long killed processes may take to leave a cgroup.
const removeTime = 10 * time.Second

// remove kills what is in the cgroup and removes it with everything below.
func (c cgroup) remove() error {
	if err := os.WriteFile(filepath.Join(string(c), "cgroup.kill"), []byte("1"), 0); errors.Is(err, os.ErrNotExist) {
		if _, err := os.Stat(string(c)); errors.Is(err, os.ErrNotExist) {
			return nil
		}
	}
	pause := time.Millisecond
	for waited := time.Duration(0); ; waited += pause {
		err := removeTree(string(c))
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || waited > removeTime {
			return fmt.Errorf("remove cgroup: %w", err)
		}
		time.Sleep(pause)
		pause = min(pause*2, 50*time.Millisecond)
	}
}

func removeTree(dir string) error {
	err := unix.Rmdir(dir)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	entries, listErr := os.ReadDir(dir)
	if listErr != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err = unix.Rmdir(dir); errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// holding finds the cgroup of a process, at or below c, whose path in the hierarchy ends
// with path.
func (c cgroup) holding(pid int, path string) (cgroup, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if err != nil {
		return "", fmt.Errorf("find cgroup of process: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		full, ok := strings.CutPrefix(strings.TrimSpace(line), "0::")
		if _, below, found := strings.Cut(full, filepath.Clean(path)); ok && found && !strings.Contains(below, "..") {
			return cgroup(filepath.Join(string(c), below)), nil
		}
	}
	return "", fmt.Errorf("find cgroup of process: %w", errdefs.ErrNotFound)
}
