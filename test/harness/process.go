package harness

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// startTimeout is how long a program may take until it answers, and until it ends.
const startTimeout = 60 * time.Second

// Process is a program of a test that runs in the background and may be started again.
// Its methods are for one goroutine.
type Process struct {
	Name    string                    // for errors
	Log     string                    // a file, to which the output is appended
	Command func() (*exec.Cmd, error) // makes the command of the next start
	cmd     *exec.Cmd
	ended   chan struct{} // closed when cmd has been reaped
}

// Start does not wait until the program answers anyone.
func (p *Process) Start() error {
	c, err := p.Command()
	if err != nil {
		return fmt.Errorf("prepare %s: %w", p.Name, err)
	}
	log, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	c.Stdout, c.Stderr = log, log
	// A signal for the tests' process group is not for the program.
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := c.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	ended := make(chan struct{})
	p.cmd, p.ended = c, ended
	go func() {
		_ = c.Wait()
		close(ended)
	}()
	return nil
}

// Pid is the process id, 0 if the program does not run.
func (p *Process) Pid() int {
	if p.cmd == nil {
		return 0
	}
	return p.cmd.Process.Pid
}

// Alive is an error if the program has ended by itself.
func (p *Process) Alive() error {
	if p.cmd == nil {
		return fmt.Errorf("%s was not started", p.Name)
	}
	select {
	case <-p.ended:
		return fmt.Errorf("%s has ended; see %s", p.Name, p.Log)
	default:
		return nil
	}
}

// Done is closed when the program that runs has ended.
func (p *Process) Done() <-chan struct{} { return p.ended }

// Kill ends the program with SIGKILL and returns when it is gone. What it started runs on.
func (p *Process) Kill() error { return p.end(syscall.SIGKILL) }

// Stop ends the program with SIGTERM and returns when it is gone.
func (p *Process) Stop() error { return p.end(syscall.SIGTERM) }

func (p *Process) end(s syscall.Signal) error {
	if p.cmd == nil {
		return nil
	}
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal %s: %w", p.Name, err)
	}
	if !p.Ended(startTimeout) {
		return fmt.Errorf("%s runs on %s after %s", p.Name, startTimeout, s)
	}
	return nil
}

// Ended waits for the program to end by itself and tells whether it did. Start may be
// called after that.
func (p *Process) Ended(within time.Duration) bool {
	select {
	case <-p.ended:
		p.cmd = nil
		return true
	case <-time.After(within):
		return false
	}
}
