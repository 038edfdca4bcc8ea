package monitor

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/flow"
	"github.com/cricket-cri/cricket/runtime/logfile"
)

// container is one container under supervision.
type container struct {
	srv *Server
	log *logfile.File
	tee tee
	// logged rings when the log may have grown.
	logged bell

	// starting serializes Start and Delete, which drive the OCI runtime.
	starting sync.Mutex
	// checkpointing is held by the one checkpoint that is made at a time.
	checkpointing sync.Mutex

	mu      sync.Mutex
	rec     record
	pidfd   *os.File // nil when the process is gone
	stdin   *os.File // write end of the FIFO; nil if there is none
	console *os.File // the terminal's master; nil if there is none
	pumps   []*pump
	left    []*pump // of what execs left behind
	exited  chan struct{}
	deleted bool
	killed  bool // SIGKILL was asked for
	// told delivers an exit that a Keeper learnt while there was no monitor.
	told chan runtime.Exit
}

func (s *Server) newContainer(rec record) *container {
	return &container{
		srv:    s,
		rec:    rec,
		log:    s.logs.Open(rec.Request.LogPath, rec.Request.MaxLogLine),
		exited: make(chan struct{}),
	}
}

func (c *container) state() runtime.State {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rec.state()
}

func (c *container) save() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.deleted {
		return nil
	}
	return c.srv.shelf.save(c.rec.Request.ID, recordSuffix, c.rec)
}

// addOutput starts to move one output stream into the log and to whom it may concern.
func (c *container) addOutput(src *os.File, name string, kind byte) error {
	return c.resumeOutput(src, name, kind, nil)
}

// resumeOutput is addOutput in the middle of a line.
func (c *container) resumeOutput(src *os.File, name string, kind byte, tail []byte) error {
	stream := c.log.Stream(name)
	stream.Write(tail, time.Now())
	p, err := startPump(src, &c.srv.buffers,
		func(b []byte, at time.Time) { stream.Write(b, at); c.logged.ring(); c.tee.write(kind, b) },
		func(at time.Time) { stream.Flush(at); c.logged.ring() })
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	p.name, p.tail = name, stream.Tail
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pumps = append(c.pumps, p)
	return nil
}

// openOutputs opens the reading ends of the FIFOs.
func (c *container) openOutputs() error {
	for _, o := range []struct {
		fifo, name string
		kind       byte
	}{{stdoutFIFO, "stdout", frameStdout}, {stderrFIFO, "stderr", frameStderr}} {
		f, err := openFIFO(c.rec.Request.Bundle, o.fifo, unix.O_RDONLY)
		if err != nil {
			return err
		}
		if err := c.addOutput(f, o.name, o.kind); err != nil {
			f.Close()
			return err
		}
	}
	return nil
}

// settle makes the end of init known: output first, then the exit.
func (c *container) settle(exit runtime.Exit) {
	cg := c.rec.Cgroup // never changes once the process is known
	c.mu.Lock()
	murdered := exit.Code == 128+int32(unix.SIGKILL) && !c.killed
	c.mu.Unlock()
	exit.OOMKilled = cg.oomKilled(murdered)
	if c.rec.Request.KillAll {
		if err := cg.kill(); err != nil {
			c.srv.log.Warn("kill cgroup", slog.String("container", c.rec.Request.ID), slog.Any("error", err))
		}
	}
	c.mu.Lock()
	pumps := c.pumps
	c.mu.Unlock()
	for _, p := range pumps {
		p.drain()
	}
	c.mu.Lock()
	c.rec.Phase, c.rec.Exit = runtime.Exited, exit
	closeAll(&c.pidfd, &c.stdin)
	c.mu.Unlock()
	if err := c.save(); err != nil {
		c.srv.log.Warn("save exit", slog.String("container", c.rec.Request.ID), slog.Any("error", err))
	}
	close(c.exited)
	c.tee.close(nil)
	for _, p := range pumps {
		<-p.done
	}
	c.closeLog()
}

// closeLog says if the file system kept something from the log until now.
func (c *container) closeLog() {
	if err := c.log.Close(); err != nil {
		c.srv.log.Warn("close log", slog.String("container", c.rec.Request.ID), slog.Any("error", err))
	}
}

func closeAll(files ...**os.File) {
	for _, f := range files {
		if *f != nil {
			(*f).Close()
			*f = nil
		}
	}
}

// wait blocks until the exit is known.
func (c *container) wait(ctx context.Context) (runtime.Exit, error) {
	select {
	case <-c.exited:
		return c.state().Exit, nil
	case <-ctx.Done():
		return runtime.Exit{}, ctx.Err()
	}
}

// running reports whether the exit is not known yet.
func (c *container) running() bool {
	select {
	case <-c.exited:
		return false
	default:
		return true
	}
}

func (c *container) start(ctx context.Context) (at time.Time, err error) {
	c.starting.Lock()
	defer c.starting.Unlock()
	if st := c.state(); st.Phase != runtime.Created || c.deleted {
		return time.Time{}, fmt.Errorf("start container that is %s: %w", st.Phase, errdefs.ErrFailedPrecondition)
	}
	err = flow.Run(context.WithoutCancel(ctx), "start container",
		flow.Step{Name: "run runtime", Do: func(context.Context) error {
			at, err = c.runStart()
			return err
		}},
		flow.Step{Name: "save record", Do: func(context.Context) error { return c.save() }})
	return at, err
}

// runStart lets the OCI runtime start the container and notes that it did.
func (c *container) runStart() (time.Time, error) {
	if err := c.callStart(); err != nil {
		return time.Time{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rec.StartedAt = time.Now()
	if c.rec.Phase == runtime.Created {
		c.rec.Phase = runtime.Running
	}
	return c.rec.StartedAt, nil
}

func (c *container) callStart() error {
	req, rt := c.rec.Request, c.rec.Request.Runtime
	if c.srv.inProcess(req) {
		return c.executeStart()
	}
	return c.srv.call(rt, req.Bundle, func(log string) []string { return rt.Start(log, req.ID) })
}

// signal sends sig to init; SIGKILL ends everything in the cgroup.
func (c *container) signal(sig unix.Signal) error {
	c.mu.Lock()
	pidfd := c.pidfd
	c.killed = c.killed || sig == unix.SIGKILL
	c.mu.Unlock()
	if sig == unix.SIGKILL {
		if err := c.rec.Cgroup.kill(); err != nil {
			return fmt.Errorf("signal container: %w", err)
		}
	}
	if pidfd == nil {
		return nil
	}
	if err := sendSignal(pidfd, sig); err != nil {
		return fmt.Errorf("signal container: %w", err)
	}
	return nil
}

// remove ends the container and forgets it. The record goes last: until then the next
// monitor knows of what is left.
func (c *container) remove(ctx context.Context) error {
	c.starting.Lock()
	defer c.starting.Unlock()
	req, inline := c.rec.Request, c.rec.Inline
	return flow.Run(context.WithoutCancel(ctx), "delete container",
		flow.Step{Name: "kill processes", Do: func(context.Context) error { return c.signal(unix.SIGKILL) }},
		flow.Step{Name: "delete from runtime", Do: c.runDelete},
		flow.Step{Name: "remove files", Do: func(context.Context) error {
			c.release()
			removeFiles(req.Bundle)
			if inline {
				return removeBundle(req)
			}
			return nil
		}},
		flow.Step{Name: "remove record", Do: func(context.Context) error { return c.srv.shelf.remove(req.ID, recordSuffix) }})
}

// runDelete returns when the OCI runtime has forgotten the container and it has exited.
func (c *container) runDelete(ctx context.Context) error {
	if err := c.callDelete(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, killTime)
	defer cancel()
	if _, err := c.wait(ctx); err != nil {
		return fmt.Errorf("wait for the end of a killed container: %w", err)
	}
	return nil
}

func (c *container) callDelete() error {
	req, rt := c.rec.Request, c.rec.Request.Runtime
	if c.srv.inProcess(req) {
		return executorError("delete", c.srv.executor.Delete(req.ID))
	}
	err := c.srv.call(rt, req.Bundle, func(log string) []string { return rt.Delete(log, req.ID) })
	if err != nil && !goneMessage(err) {
		return err
	}
	return nil
}

// release lets go of streams and log; nothing is recorded any more.
func (c *container) release() {
	c.mu.Lock()
	c.deleted = true
	pumps := slices.Concat(c.pumps, c.left)
	c.mu.Unlock()
	for _, p := range pumps {
		p.stop()
	}
	c.closeLog()
}
