package monitor

import (
	"fmt"
	"net"
	"os"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cricket-cri/cricket/runtime"
)

// The names of duplicated descriptors.
const (
	fdProcess  = "process"
	fdTerminal = "terminal"
	fdInput    = "input"
)

// keepReply describes what a Keeper holds of a container.
type keepReply struct {
	// FDs names the descriptors that came before the reply, in order.
	FDs    []string `json:"fds,omitempty"`
	Bundle string   `json:"bundle"`
	// Outputs are the FIFOs in the bundle that keep unread output while open.
	Outputs []string `json:"outputs,omitempty"`
}

// adoptRequest is followed by one byte with the named descriptors.
type adoptRequest struct {
	FDs []string `json:"fds,omitempty"`
}

// keep gives duplicates of what no other process could open by name.
func (c *container) keep(conn net.Conn) (keepReply, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	reply := keepReply{Bundle: c.rec.Request.Bundle}
	if !c.rec.Request.Terminal {
		reply.Outputs = []string{stdoutFIFO, stderrFIFO}
	}
	var fds []int
	add := func(name string, f *os.File) {
		if f == nil {
			return
		}
		if raw, err := f.SyscallConn(); err == nil {
			raw.Control(func(fd uintptr) { fds, reply.FDs = append(fds, int(fd)), append(reply.FDs, name) })
		}
	}
	add(fdProcess, c.pidfd)
	add(fdTerminal, c.console)
	if c.rec.Request.StdinOnce {
		add(fdInput, c.stdin)
	}
	if len(fds) == 0 {
		return reply, nil
	}
	// The lock keeps the numbers valid until they are sent.
	return reply, sendFDs(conn, fds)
}

// adopt takes descriptors from a Keeper into a monitor that lacks them.
func (c *container) adopt(conn net.Conn, r adoptRequest) error {
	u, ok := conn.(*net.UnixConn)
	if !ok || len(r.FDs) == 0 {
		return fmt.Errorf("adopt descriptors: %w", errdefs.ErrInvalidArgument)
	}
	conn.SetReadDeadline(time.Now().Add(headerTime))
	fds, _, err := receiveFDs(u, make([]byte, 1), maxFDs)
	if err != nil {
		return fmt.Errorf("adopt descriptors: %w", err)
	}
	if len(fds) != len(r.FDs) {
		closeFDs(fds)
		return fmt.Errorf("adopt descriptors: %d instead of %d: %w", len(fds), len(r.FDs), errdefs.ErrInvalidArgument)
	}
	unblock(fds)
	var process *os.File
	for i, name := range r.FDs {
		f := os.NewFile(uintptr(fds[i]), name)
		switch name {
		case fdProcess:
			process = f
		case fdTerminal:
			err = c.adoptTerminal(f)
		case fdInput:
			c.adoptInput(f)
		default:
			f.Close()
		}
	}
	if process != nil { // last, so that the terminal's output comes before the exit
		defer process.Close()
		c.adoptExit(process)
	}
	return err
}

func (c *container) adoptTerminal(f *os.File) error {
	c.mu.Lock()
	useless := c.console != nil || !c.rec.Request.Terminal || c.rec.Phase == runtime.Exited
	if !useless {
		c.console = f
	}
	c.mu.Unlock()
	if useless {
		return f.Close()
	}
	return c.addOutput(f, "stdout", frameStdout)
}

func (c *container) adoptInput(f *os.File) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stdin != nil || !c.rec.Request.StdinOnce || c.rec.InputEnded || c.rec.Phase == runtime.Exited {
		f.Close()
		return
	}
	c.stdin = f
}

// adoptExit learns the end of a process that was gone before this monitor began.
func (c *container) adoptExit(process *os.File) {
	c.mu.Lock()
	told, lost := c.told, c.pidfd == nil && (c.rec.Phase != runtime.Exited || c.rec.Exit.Unknown)
	c.mu.Unlock()
	if told == nil || !lost {
		return
	}
	code, ok := exitSoon(process)
	if !ok {
		return
	}
	exit := runtime.Exit{Code: code, At: time.Now()}
	select {
	case told <- exit:
	default:
	}
	<-c.exited
	c.mu.Lock()
	if c.rec.Exit.Unknown { // it came too late to be told, yet better late
		exit.At, exit.OOMKilled = c.rec.Exit.At, c.rec.Exit.OOMKilled
		c.rec.Exit = exit
	}
	c.mu.Unlock()
	_ = c.save() // the exit is in memory; a record that cannot be written was reported
}
