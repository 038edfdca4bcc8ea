package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/vmsandbox/agent"
)

// fakeGuest keeps the guest's files below a directory of the host. Mounts are noted, not
// made.
type fakeGuest struct {
	agent.Guest // what is not implemented is not expected
	root        string

	mu     sync.Mutex
	mounts []agent.Mount
	puts   []string // paths in the order of writing
	fail   error    // what every call answers
	// largest is the content of the largest call, in bytes.
	largest int
}

func newFakeGuest(t *testing.T) *fakeGuest {
	return &fakeGuest{root: t.TempDir()}
}

func (g *fakeGuest) path(p string) string { return filepath.Join(g.root, p) }

func (g *fakeGuest) Mount(_ context.Context, m agent.Mount) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.fail != nil {
		return g.fail
	}
	if err := belowBase(m.Target); err != nil {
		return err
	}
	if m.Type == "9p" && slices.ContainsFunc(g.mounts, func(o agent.Mount) bool { return o.Source == m.Source }) {
		return fmt.Errorf("the tag is in use: %w", errdefs.ErrNotFound)
	}
	g.mounts = append(g.mounts, m)
	return os.MkdirAll(g.path(m.Target), 0o755)
}

func (g *fakeGuest) Unmount(_ context.Context, target string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mounts = slices.DeleteFunc(g.mounts, func(m agent.Mount) bool { return m.Target == target })
	return g.fail
}

// belowBase is what a guest insists on.
func belowBase(path string) error {
	for _, base := range []string{agent.DirDisks, agent.DirContainers, agent.DirVolumes, agent.DirShared, agent.DirLogs} {
		if rel, ok := below(path, base); ok && rel != "" && filepath.Clean(path) == path {
			return nil
		}
	}
	return errdefs.ErrInvalidArgument
}

func (g *fakeGuest) Put(_ context.Context, files []agent.File) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	bytes := 0
	for _, f := range files {
		bytes += len(f.Content)
	}
	g.largest = max(g.largest, bytes)
	for _, f := range files {
		if g.fail != nil {
			return g.fail
		}
		if err := errors.Join(belowBase(f.Path), g.put(f)); err != nil {
			return err
		}
		g.puts = append(g.puts, f.Path)
	}
	return nil
}

func (g *fakeGuest) put(f agent.File) error {
	p := g.path(f.Path)
	switch f.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		if err := os.Mkdir(p, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	case unix.S_IFLNK:
		if err := os.Symlink(string(f.Content), p+".tmp"); err != nil {
			return err
		}
		return errors.Join(os.Lchown(p+".tmp", int(f.UID), int(f.GID)), os.Rename(p+".tmp", p))
	default:
		if f.Replace {
			if err := os.Remove(p); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
		if err := os.WriteFile(p, f.Content, 0o600); err != nil {
			return err
		}
	}
	return errors.Join(os.Chown(p, int(f.UID), int(f.GID)), unix.Chmod(p, f.Mode&0o7777))
}

func (g *fakeGuest) Get(_ context.Context, path string) (agent.File, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.fail != nil {
		return agent.File{}, g.fail
	}
	info, err := os.Lstat(g.path(path))
	switch {
	case err != nil:
		return agent.File{}, errors.Join(errdefs.ErrNotFound, err)
	case info.Mode()&os.ModeSymlink != 0:
		target, err := os.Readlink(g.path(path))
		return agent.File{Path: path, Mode: unix.S_IFLNK | 0o777, Content: []byte(target)}, err
	case !info.Mode().IsRegular():
		return agent.File{}, errdefs.ErrFailedPrecondition
	}
	b, err := os.ReadFile(g.path(path))
	return agent.File{Path: path, Mode: unix.S_IFREG | 0o644, Content: b}, err
}

func (g *fakeGuest) Remove(_ context.Context, paths []string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.fail != nil {
		return g.fail
	}
	for _, p := range paths {
		if err := os.RemoveAll(g.path(p)); err != nil {
			return err
		}
	}
	return nil
}

func (g *fakeGuest) setFail(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.fail = err
}

// order returns what was written since the last call, relative to a directory.
func (g *fakeGuest) order(dir string) []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	var out []string
	for _, p := range g.puts {
		if rel, ok := below(p, dir); ok {
			out = append(out, rel)
		}
	}
	g.puts = nil
	return out
}

func (g *fakeGuest) mounted(target string) (agent.Mount, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	i := slices.IndexFunc(g.mounts, func(m agent.Mount) bool { return m.Target == target })
	if i < 0 {
		return agent.Mount{}, false
	}
	return g.mounts[i], true
}

func option(m agent.Mount, prefix string) string {
	for _, o := range m.Options {
		if rest, ok := strings.CutPrefix(o, prefix); ok {
			return rest
		}
	}
	return ""
}
