package monitor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/flow"
)

const pidFile = "init.pid"

// creation is a container while it is made.
type creation struct {
	srv     *Server
	req     CreateRequest
	c       *container
	child   childStreams
	console *consoleSocket
	process Process // of an Executor
	began   time.Time
	ended   <-chan status
}

func (s *Server) checkCreate(r CreateRequest) error {
	switch {
	case !validID(r.ID):
		return fmt.Errorf("check id: %w", errdefs.ErrInvalidArgument)
	case !filepath.IsAbs(r.Bundle):
		return fmt.Errorf("check bundle: not an absolute path: %w", errdefs.ErrInvalidArgument)
	case !s.inProcess(r) && !filepath.IsAbs(r.Runtime.Path):
		return fmt.Errorf("check runtime: not an absolute path: %w", errdefs.ErrInvalidArgument)
	}
	return nil
}

// validID keeps ids from being paths or options.
func validID(id string) bool {
	if id == "" || len(id) > 128 || id[0] == '-' || id[0] == '.' {
		return false
	}
	for _, r := range id {
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("-_.", r) {
			return false
		}
	}
	return true
}

func (s *Server) create(ctx context.Context, req CreateRequest) (Created, error) {
	if err := s.checkCreate(req); err != nil {
		return Created{}, err
	}
	n := &creation{srv: s, req: req, began: time.Now()}
	noted := req
	noted.Spec = nil // it is in the bundle
	n.c = s.newContainer(record{Request: noted, life: life{Boot: s.boot, Phase: runtime.Created}, Inline: req.Spec != nil})
	if !s.reserve(req.ID, n.c) {
		n.c.closeLog()
		return Created{}, fmt.Errorf("create container: %w", errdefs.ErrAlreadyExists)
	}
	err := flow.Run(ctx, "create container",
		// Without an init process: what the next monitor has to take back.
		flow.Step{
			Name: "save intent",
			Do:   func(context.Context) error { return n.c.save() },
			Undo: func(context.Context) error { return s.shelf.remove(req.ID, recordSuffix) },
		},
		flow.Step{Name: "write bundle", Do: n.writeBundle, Undo: n.removeBundle},
		flow.Step{Name: "open streams", Do: n.openStreams, Undo: n.closeStreams},
		flow.Step{Name: "run runtime", Do: n.runRuntime, Undo: n.deleteRuntime},
		flow.Step{Name: "find init", Do: n.findInit},
		flow.Step{Name: "save record", Do: func(context.Context) error { return n.c.save() }},
	)
	n.child.close()
	if err != nil {
		s.forget(req.ID)
		return Created{}, err
	}
	s.publish(n.c)
	s.watch(n.c, n.ended)
	return n.c.rec.Init, nil
}

func (n *creation) openStreams(ctx context.Context) (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, n.closeStreams(ctx))
		}
	}()
	if n.child, err = nullStreams(); err != nil {
		return err
	}
	if n.req.Terminal {
		if !n.srv.inProcess(n.req) {
			n.console, err = n.srv.listenConsole()
		}
		return err
	}
	uid, gid, err := streamOwner(n.req.Spec, n.req.Bundle)
	if err != nil {
		return err
	}
	for _, name := range []string{stdoutFIFO, stderrFIFO} {
		if err := makeFIFO(filepath.Join(n.req.Bundle, name), uid, gid); err != nil {
			return err
		}
	}
	for i, name := range []string{stdoutFIFO, stderrFIFO} {
		if err := n.replace(i+1, name, unix.O_RDWR); err != nil {
			return err
		}
	}
	// Only now: a FIFO that nobody can write to looks as if its output had ended.
	if err := n.c.openOutputs(); err != nil {
		return err
	}
	if n.req.Stdin {
		return n.openStdin(uid, gid)
	}
	return nil
}

// openStdin connects standard input. Where it stays open for ever, the process has a
// writing end itself, and no monitor's death can look like the end of input.
func (n *creation) openStdin(uid, gid int) error {
	if err := makeFIFO(filepath.Join(n.req.Bundle, stdinFIFO), uid, gid); err != nil {
		return err
	}
	// Neither end can be opened first without blocking or failing, so both at once.
	both, err := openFIFO(n.req.Bundle, stdinFIFO, unix.O_RDWR)
	if err != nil {
		return err
	}
	defer both.Close()
	if n.c.stdin, err = openFIFO(n.req.Bundle, stdinFIFO, unix.O_WRONLY); err != nil {
		return err
	}
	flags := unix.O_RDWR
	if n.req.StdinOnce {
		flags = unix.O_RDONLY
	}
	return n.replace(0, stdinFIFO, flags)
}

func (n *creation) replace(i int, name string, flags int) error {
	f, err := childEnd(n.req.Bundle, name, flags)
	if err != nil {
		return err
	}
	n.child[i].Close()
	n.child[i] = f
	return nil
}

func (n *creation) closeStreams(context.Context) error {
	n.child.close()
	n.child = childStreams{}
	if n.console != nil {
		n.console.close()
	}
	for _, p := range n.c.pumps {
		p.stop()
	}
	closeAll(&n.c.stdin, &n.c.console)
	n.c.closeLog()
	removeFiles(n.req.Bundle)
	return nil
}

// removeFiles deletes what the monitor made in a bundle.
func removeFiles(bundle string) {
	for _, name := range []string{stdoutFIFO, stderrFIFO, stdinFIFO, pidFile} {
		os.Remove(filepath.Join(bundle, name))
	}
	os.RemoveAll(filepath.Join(bundle, "lower"))
}

func (n *creation) runRuntime(ctx context.Context) error {
	if n.srv.inProcess(n.req) {
		return n.execute()
	}
	console := ""
	if n.console != nil {
		console = n.console.path
	}
	pid := filepath.Join(n.req.Bundle, pidFile)
	rt := n.req.Runtime
	err := n.srv.callWith(rt, n.req.Bundle, callOptions{overlays: n.overlays(), streams: &n.child}, func(log string) []string {
		return rt.Create(log, n.req.Bundle, pid, console, n.req.ID)
	})
	if err != nil {
		return errors.Join(err, n.deleteRuntime(ctx))
	}
	return nil
}

func (n *creation) deleteRuntime(ctx context.Context) error {
	if n.srv.inProcess(n.req) {
		return executorError("delete", n.srv.executor.Delete(n.req.ID))
	}
	rt := n.req.Runtime
	err := n.srv.call(rt, n.req.Bundle, func(log string) []string { return rt.Delete(log, n.req.ID) })
	if err != nil && !goneMessage(err) {
		return err
	}
	return nil
}

func (n *creation) findInit(context.Context) error {
	pid, err := n.initPid()
	if err != nil {
		return err
	}
	n.ended = n.srv.reaper.claim(pid, n.began)
	st, err := readProc(pid)
	if err != nil {
		return fmt.Errorf("find init: %w", err)
	}
	n.c.rec.Init = Created{Pid: pid, StartTime: st.start}
	n.c.rec.Cgroup = cgroupOf(pid)
	if n.c.pidfd, err = openProcess(pid, st.start); err != nil {
		return err
	}
	master := n.process.Terminal
	if n.console != nil {
		if master, err = n.console.accept(); err != nil {
			return err
		}
	}
	if master == nil {
		return nil
	}
	n.c.console = master
	return n.c.addOutput(master, "stdout", frameStdout)
}

func (n *creation) initPid() (int, error) {
	if n.process.Pid != 0 {
		return n.process.Pid, nil
	}
	return readPidFile(filepath.Join(n.req.Bundle, pidFile))
}

func readPidFile(path string) (int, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("read pid file: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid <= 1 {
		return 0, fmt.Errorf("read pid file: %q is no process id: %w", b, errdefs.ErrInternal)
	}
	return pid, nil
}

// streamOwner finds the container's user as the host sees it. The specification is the
// bundle's; nil has it read from there.
func streamOwner(brought *specs.Spec, bundle string) (uid, gid int, err error) {
	spec, err := specOf(brought, bundle)
	if err != nil {
		return 0, 0, err
	}
	if spec.Process == nil {
		return 0, 0, fmt.Errorf("read bundle: no process: %w", errdefs.ErrInvalidArgument)
	}
	var uids, gids []specs.LinuxIDMapping
	if spec.Linux != nil {
		uids, gids = spec.Linux.UIDMappings, spec.Linux.GIDMappings
	}
	return toHost(spec.Process.User.UID, uids), toHost(spec.Process.User.GID, gids), nil
}

func toHost(id uint32, mappings []specs.LinuxIDMapping) int {
	for _, m := range mappings {
		if id >= m.ContainerID && id-m.ContainerID < m.Size {
			return int(m.HostID + (id - m.ContainerID))
		}
	}
	return int(id)
}
