package monitor

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cricket-cri/cricket/runtime/oci"
	"github.com/cricket-cri/cricket/runtime/wirekind"
)

// Executor runs containers without the program of an OCI runtime: the monitor calls it
// for those whose request names none. What it starts are children of this process, and
// the monitor reaps them; signals, cgroup.kill and the counters of the cgroup are the
// monitor's business too. It is safe for concurrent use.
//
// Containers of an Executor do not survive the process: it is for monitors that end
// with their kernel.
type Executor interface {
	// Create makes a container up to the point at which its program would be executed,
	// and that this can be done is known then: a program that does not exist is an error
	// here. It leaves nothing behind if it fails.
	Create(b Blueprint) (Process, error)
	// Start lets the program be executed, once.
	Start(id string) error
	// Exec starts one more process in a container that was started. The descriptors are
	// those for a process without a terminal.
	Exec(id string, p *specs.Process, stdio [3]*os.File) (Process, error)
	// Update changes the limits of a container; what r leaves out stays.
	Update(id string, r *specs.LinuxResources) error
	// Delete kills what is left of a container and removes it with its cgroup. It is
	// idempotent.
	Delete(id string) error
}

// Blueprint is what an Executor makes a container of.
type Blueprint struct {
	ID     string
	Bundle string // absolute
	Spec   *specs.Spec
	// Stdio are descriptors 0, 1 and 2 of a process without a terminal.
	Stdio [3]*os.File
	// Mount mounts the container's file systems below the bundle, in the mount namespace
	// of the calling thread. The bundle's own mount is private there afterwards.
	Mount func() error
}

// Process is what an Executor has started.
type Process struct {
	Pid int // in the namespace of this process
	// Terminal is the master of its terminal; nil without.
	Terminal *os.File
}

// inProcess reports whether a request is for the executor.
func (s *Server) inProcess(r CreateRequest) bool {
	return s.executor != nil && r.Runtime == oci.Runtime{}
}

// executorError gives a failure the kind that the same failure of an OCI runtime has,
// whose text is all that is known of it.
func executorError(verb string, err error) error {
	if err == nil {
		return nil
	}
	if wirekind.Of(err) != wirekind.Internal {
		return fmt.Errorf("%s: %w", verb, err)
	}
	return fmt.Errorf("%s: %w: %w", verb, err, oci.Kind(err.Error()))
}

func (n *creation) execute() error {
	spec, err := specOf(n.req.Spec, n.req.Bundle)
	if err != nil {
		return err
	}
	p, err := n.srv.executor.Create(Blueprint{
		ID: n.req.ID, Bundle: n.req.Bundle, Spec: spec, Stdio: n.child,
		Mount: func() error { return mountAll(n.req.Bundle, n.overlays()) },
	})
	n.process = p
	return executorError("create", err)
}

func (n *creation) overlays() []Overlay {
	if n.req.Rootfs.Target == "" {
		return n.req.Overlays
	}
	return append([]Overlay{n.req.Rootfs}, n.req.Overlays...)
}

// specOf is the specification that a request brought, or else the bundle's.
func specOf(brought *specs.Spec, bundle string) (*specs.Spec, error) {
	if brought != nil {
		return brought, nil
	}
	return readSpec(bundle)
}

func readSpec(bundle string) (*specs.Spec, error) {
	var spec specs.Spec
	b, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	if err == nil {
		err = json.Unmarshal(b, &spec)
	}
	if err != nil {
		return nil, fmt.Errorf("read bundle: %w: %w", errdefs.ErrInvalidArgument, err)
	}
	return &spec, nil
}

// execute is spawn without an OCI runtime.
func (e *execution) execute() error {
	c, began := e.c, time.Now()
	p, err := c.srv.executor.Exec(c.rec.Request.ID, &e.req.Process, e.child)
	if err != nil {
		return executorError("exec", err)
	}
	e.rec.Process.Pid = p.Pid
	e.ended = c.srv.reaper.claim(p.Pid, began)
	if st, err := readProc(p.Pid); err == nil { // else it has ended already
		e.rec.Process.StartTime, e.rec.Session = st.start, st.session
	}
	if p.Terminal == nil {
		return nil
	}
	e.master = p.Terminal
	return e.pump(e.master, frameStdout)
}

func (c *container) executeStart() error {
	return executorError("start", c.srv.executor.Start(c.rec.Request.ID))
}

func (c *container) executeUpdate(r *specs.LinuxResources) error {
	return executorError("update", c.srv.executor.Update(c.rec.Request.ID, r))
}
