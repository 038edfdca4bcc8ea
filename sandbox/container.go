package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/monitor"
	"github.com/cricket-cri/cricket/runtime/procstat"
	"github.com/cricket-cri/cricket/runtime/rmtree"
	"github.com/cricket-cri/cricket/runtime/spec"
)

// processFile holds the container's own process in the bundle: what exec'd ones
// inherit, without the rest of config.json.
const processFile = "process.json"

// container is a container of the shared-kernel driver. It holds nothing but its name:
// what there is to know, the monitor and the bundle know.
type container struct {
	id  string
	pod *pod
}

func (p *pod) container(id string) *container { return &container{id: id, pod: p} }

func (c *container) monitor() Monitor { return c.pod.driver.opts.Monitor }

// Container re-adopts a container after a restart of the daemon, also one that is only
// half made or that a reboot has left a writable layer of: Remove cleans up after both.
func (p *pod) Container(_ context.Context, id string) (runtime.Container, error) {
	if id == "" || id != cleanName(id) {
		return nil, fmt.Errorf("find container %q: %w", id, errdefs.ErrInvalidArgument)
	}
	if _, err := os.Lstat(p.dir(containersDir, id)); err == nil {
		return p.container(id), nil
	}
	if _, err := os.Lstat(filepath.Join(p.driver.layerDir(id), ownerPrefix+p.id())); err != nil {
		return nil, fmt.Errorf("find container: %w: %w", errdefs.ErrNotFound, err)
	}
	return p.container(id), nil
}

func (c *container) State(ctx context.Context) (runtime.State, error) {
	return c.monitor().State(ctx, c.id)
}

func (c *container) Start(ctx context.Context) error {
	_, err := c.monitor().Start(ctx, c.id)
	return err
}

// Signal kills by cgroup, too, where the init process may not take the rest with it.
func (c *container) Signal(ctx context.Context, sig unix.Signal) error {
	err := c.monitor().Signal(ctx, c.id, sig)
	if err == nil && sig == unix.SIGKILL {
		err = c.pod.killCgroup(c.id)
	}
	return err
}

func (c *container) Wait(ctx context.Context) (runtime.Exit, error) {
	return c.monitor().Wait(ctx, c.id)
}

func (c *container) Exec(ctx context.Context, e runtime.ExecConfig) (runtime.Exit, error) {
	process, err := c.process()
	if err != nil {
		return runtime.Exit{}, err
	}
	process.Args = e.Args
	process.Terminal = e.Streams.Terminal
	process.ConsoleSize = nil
	return c.monitor().Exec(ctx, c.id, monitor.ExecRequest{Process: process, Timeout: e.Timeout}, e.Streams)
}

func (c *container) process() (process specs.Process, err error) {
	content, err := os.ReadFile(filepath.Join(c.pod.driver.bundle(c.id), processFile))
	if errors.Is(err, fs.ErrNotExist) {
		return process, fmt.Errorf("read process of container: %w: %w", errdefs.ErrNotFound, err)
	}
	if err != nil {
		return process, fmt.Errorf("read process of container: %w", err)
	}
	if err := json.Unmarshal(content, &process); err != nil {
		return process, fmt.Errorf("decode process of container: %w", err)
	}
	return process, nil
}

func (c *container) Attach(ctx context.Context, s runtime.Streams) error {
	return c.monitor().Attach(ctx, c.id, s)
}

func (c *container) ReopenLog(ctx context.Context) error { return c.monitor().ReopenLog(ctx, c.id) }

func (c *container) Update(ctx context.Context, r *runtime.Resources) error {
	return c.monitor().Update(ctx, c.id, spec.Resources(r, c.pod.driver.cgroup.Unified()))
}

func (c *container) Stat(_ context.Context, s *runtime.Stat) error {
	_, path, err := c.pod.driver.naming.Container(c.pod.parent(), c.id)
	if err != nil {
		return err
	}
	return c.pod.driver.cgroup.Stat(path, s)
}

// Processes counts what the container's processes have open, which takes as long as there
// is.
func (c *container) Processes(ctx context.Context) (runtime.ProcessStat, error) {
	_, path, err := c.pod.driver.naming.Container(c.pod.parent(), c.id)
	if err != nil {
		return runtime.ProcessStat{}, err
	}
	pids, err := c.pod.driver.cgroup.Pids(path)
	if err != nil {
		return runtime.ProcessStat{}, err
	}
	return procstat.Read(ctx, pids)
}

// ignoreMissing: files come and go while the container runs.
func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Remove deletes what the container left; it is idempotent and cleans up after a
// container that was half made.
func (c *container) Remove(ctx context.Context) error {
	if err := c.monitor().Delete(ctx, c.id); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	if err := c.removeCgroup(); err != nil {
		return err
	}
	if err := rmtree.Remove(c.pod.driver.bundle(c.id)); err != nil {
		return fmt.Errorf("remove bundle: %w", err)
	}
	if err := c.removeLayer(); err != nil {
		return err
	}
	// Last: as long as the name is there, the sandbox knows of the container.
	if err := os.Remove(c.pod.dir(containersDir, c.id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget container: %w", err)
	}
	return nil
}

func (c *container) removeCgroup() error {
	_, path, err := c.pod.driver.naming.Container(c.pod.parent(), c.id)
	if err != nil || !c.pod.driver.cgroup.Exists(path) {
		return nil //nolint:nilerr // a parent that is not known has no cgroup of ours
	}
	if err := c.pod.driver.cgroup.Kill(path); err != nil {
		return err
	}
	return c.pod.driver.cgroup.Remove(path)
}

// removeLayer takes the owner's name away last, by which the layer is found.
func (c *container) removeLayer() error {
	dir := c.pod.driver.layerDir(c.id)
	for _, name := range []string{"upper", "work"} {
		if err := rmtree.Remove(filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("remove writable layer: %w", err)
		}
	}
	if err := c.pod.driver.withoutQuota(dir, rmtree.Remove); err != nil {
		return fmt.Errorf("remove writable layer: %w", err)
	}
	return nil
}

func (c *container) upper() string { return filepath.Join(c.pod.driver.layerDir(c.id), "upper") }
func (c *container) work() string  { return filepath.Join(c.pod.driver.layerDir(c.id), "work") }
