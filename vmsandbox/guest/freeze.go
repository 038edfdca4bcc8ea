package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cricket-cri/cricket/vmsandbox/agent"
)

// The states of a cgroup, as cgroup.freeze has them.
const (
	frozen = "1"
	thawed = "0"
)

// frozenPause is between two looks at whether a cgroup stands still: a process that is in
// a system call stops when that lets it.
const frozenPause = 2 * time.Millisecond

// Freeze implements agent.Guest. All are told to stop before any is waited for.
func (g *Guest) Freeze(ctx context.Context, containers []string) (map[string]int64, error) {
	g.freezing.Lock()
	defer g.freezing.Unlock()
	err := g.freeze(ctx, containers)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("freeze containers: %w", err), g.thaw(containers))
	}
	logs := map[string]int64{}
	for _, id := range containers {
		st, err := os.Stat(path.Join(agent.DirLogs, id))
		if err == nil {
			logs[id] = st.Size()
		}
	}
	return logs, nil
}

func (g *Guest) freeze(ctx context.Context, containers []string) error {
	for _, id := range containers {
		if err := g.gate.close(ctx, id); err != nil {
			return err
		}
		if err := writeCgroup(path.Join(agent.PodCgroup, id), "cgroup.freeze", frozen); err != nil {
			return kindOfCgroup(err)
		}
	}
	for _, id := range containers {
		for {
			events, err := readCgroup(path.Join(agent.PodCgroup, id), "cgroup.events")
			if err != nil {
				return kindOfCgroup(err)
			}
			if strings.Contains(events, "frozen "+frozen) {
				break
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("container %s does not stand still: %w", id, ctx.Err())
			case <-time.After(frozenPause):
			}
		}
	}
	return nil
}

// Thaw implements agent.Guest. A container that has gone has nothing to go on with.
func (g *Guest) Thaw(_ context.Context, containers []string) error {
	g.freezing.Lock()
	defer g.freezing.Unlock()
	return g.thaw(containers)
}

func (g *Guest) thaw(containers []string) error {
	var errs []error
	for _, id := range containers {
		err := writeCgroup(path.Join(agent.PodCgroup, id), "cgroup.freeze", thawed)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("thaw container %s: %w: %w", id, errdefs.ErrInternal, err))
			continue
		}
		g.gate.open(id)
	}
	return errors.Join(errs...)
}

func kindOfCgroup(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w: %w", errdefs.ErrNotFound, err)
	}
	return fmt.Errorf("%w: %w", errdefs.ErrInternal, err)
}
