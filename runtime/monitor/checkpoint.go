package monitor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
)

// CheckpointRequest says where the state of a container's processes goes.
type CheckpointRequest struct {
	// Images and Work are absolute directories for CRIU's images, and for its log and
	// figures.
	Images string `json:"images"`
	Work   string `json:"work"`
	// Programs is the absolute directory in which the OCI runtime finds criu.
	Programs string `json:"programs"`
	// Timeout is how long the container may be frozen, whatever becomes of the client.
	Timeout time.Duration `json:"timeout"`
}

// MaxCheckpointTime bounds how long a container can be asked to be frozen.
const MaxCheckpointTime = 24 * time.Hour

func (r CheckpointRequest) check() error {
	for _, dir := range []string{r.Images, r.Work, r.Programs} {
		if !filepath.IsAbs(dir) {
			return fmt.Errorf("checkpoint: directory %q is not absolute: %w", dir, errdefs.ErrInvalidArgument)
		}
	}
	if r.Timeout <= 0 || r.Timeout > MaxCheckpointTime {
		return fmt.Errorf("checkpoint: timeout %s: %w", r.Timeout, errdefs.ErrInvalidArgument)
	}
	return nil
}

// checkpoint freezes the container, has the OCI runtime dump it, tells the client so with
// frameEOF, and thaws it when the client says frameEOF in its turn or is gone. However it
// ends, the container goes on.
func (c *container) checkpoint(ctx context.Context, conn net.Conn, r CheckpointRequest) error {
	if err := r.check(); err != nil {
		return err
	}
	if c.srv.inProcess(c.rec.Request) {
		return fmt.Errorf("checkpoint container without an OCI runtime: %w", errdefs.ErrNotImplemented)
	}
	if !c.checkpointing.TryLock() {
		return fmt.Errorf("checkpoint container of which one is being made: %w", errdefs.ErrFailedPrecondition)
	}
	defer c.checkpointing.Unlock()
	if st := c.state(); st.Phase != runtime.Running {
		return fmt.Errorf("checkpoint container that is %s: %w", st.Phase, errdefs.ErrFailedPrecondition)
	}
	limited, cancel := context.WithTimeout(ctx, r.Timeout)
	defer cancel()
	// What a client says, if only by leaving, ends the freeze: before the dump it has
	// nothing to say.
	open, left := untilGone(limited, conn)
	defer left()
	err := c.freeze(open)
	if err == nil {
		err = c.dump(open, r)
	}
	if err == nil {
		if err = writeFrame(conn, frameEOF, nil); err == nil {
			<-open.Done()
			err = limited.Err() // not if the client is done
		}
	}
	if limited.Err() != nil && err != nil {
		err = fmt.Errorf("checkpoint container within %s: %w", r.Timeout, limited.Err())
	}
	return errors.Join(err, c.thaw())
}

// freeze stops every process of the container. The record says so first: should this
// monitor die, the next one thaws it.
func (c *container) freeze(ctx context.Context) error {
	c.setFrozen(true)
	if err := c.save(); err != nil {
		return err
	}
	return c.rec.Cgroup.freeze(ctx)
}

// thaw lets the processes go on. A container that has ended meanwhile is no error.
func (c *container) thaw() error {
	c.rec.Cgroup.thaw()
	c.setFrozen(false)
	return c.save()
}

func (c *container) setFrozen(frozen bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rec.Frozen, c.rec.Dump = frozen, Created{}
}

// dump runs the OCI runtime and, in it, CRIU. When ctx ends both are killed: the kernel
// lets go of the processes that CRIU had stopped.
func (c *container) dump(ctx context.Context, r CheckpointRequest) error {
	req, rt := c.rec.Request, c.rec.Request.Runtime
	streams, err := nullStreams()
	if err != nil {
		return err
	}
	defer streams.close()
	config := filepath.Join(r.Work, criuConfig)
	if err := os.WriteFile(config, []byte(c.outside()), 0o600); err != nil {
		return fmt.Errorf("configure CRIU: %w", err)
	}
	stop := func() bool { return true }
	defer func() { stop() }()
	o := callOptions{streams: &streams, programs: r.Programs, env: []string{"CRIU_CONFIG_FILE=" + config}, begun: func(pid int) {
		st, err := readProc(pid)
		if err != nil {
			return // it has ended already
		}
		runs := Created{Pid: pid, StartTime: st.start}
		c.setDump(runs)
		stop = context.AfterFunc(ctx, func() { c.endDump(runs) })
	}}
	err = c.srv.callWith(rt, req.Bundle, o, func(log string) []string { return rt.Checkpoint(log, r.Images, r.Work, req.ID) })
	return errors.Join(err, ctx.Err())
}

// criuConfig is a file of options for criu(8), in the work directory.
const criuConfig = "criu.conf"

// outside lists, as options of CRIU, what processes of the container have open of the
// bundle: the FIFOs of their output, which lie in none of the container's mounts.
func (c *container) outside() string {
	bundle := c.rec.Request.Bundle + "/"
	known := map[string]bool{}
	for _, pid := range c.rec.Cgroup.pids() {
		proc := "/proc/" + strconv.Itoa(pid)
		fds, err := os.ReadDir(proc + "/fd")
		if err != nil {
			continue // it has ended
		}
		for _, fd := range fds {
			link, err := os.Readlink(proc + "/fd/" + fd.Name())
			if err != nil || !strings.HasPrefix(link, bundle) {
				continue
			}
			var st unix.Stat_t
			mount, err := mountOf(proc + "/fdinfo/" + fd.Name())
			if err == nil && unix.Stat(proc+"/fd/"+fd.Name(), &st) == nil {
				known[fmt.Sprintf("external file[%x:%x]\n", mount, st.Ino)] = true
			}
		}
	}
	return strings.Join(slices.Sorted(maps.Keys(known)), "")
}

// mountOf reads the mount of an open file from /proc/PID/fdinfo/FD (proc(5)).
func mountOf(fdinfo string) (int, error) {
	b, err := os.ReadFile(fdinfo)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "mnt_id:"); ok {
			return strconv.Atoi(strings.TrimSpace(v))
		}
	}
	return 0, errdefs.ErrNotFound
}

// setDump notes which process dumps the container, for the next monitor.
func (c *container) setDump(runs Created) {
	c.mu.Lock()
	c.rec.Dump = runs
	c.mu.Unlock()
	if err := c.save(); err != nil {
		c.srv.log.Warn("save checkpoint", slog.String("container", c.rec.Request.ID), slog.Any("error", err))
	}
}

// dropCheckpoint ends what an earlier monitor had begun. Whoever wanted the checkpoint has
// been told that it failed.
func (c *container) dropCheckpoint() {
	if c.rec.Dump.Pid != 0 {
		c.endDump(c.rec.Dump)
	}
	if err := c.thaw(); err != nil {
		c.srv.log.Error("thaw container", slog.String("container", c.rec.Request.ID), slog.Any("error", err))
	}
}

// endDump kills the OCI runtime and its descendants.
func (c *container) endDump(rt Created) {
	if err := killTree(rt, rt.Pid, cgroup{}); err != nil {
		c.srv.log.Error("end a checkpoint that takes too long", slog.String("container", c.rec.Request.ID), slog.Any("error", err))
	}
}
