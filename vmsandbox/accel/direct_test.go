package accel

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/monitor"
)

// direct is a monitor that is part of the test.
type direct struct {
	mu        sync.Mutex
	processes map[string]*child
	spawned   []monitor.SpawnRequest
}

type child struct {
	cmd  *exec.Cmd
	done chan struct{}
}

func newDirect(t *testing.T) *direct {
	d := &direct{processes: map[string]*child{}}
	t.Cleanup(func() {
		for id := range d.processes {
			_ = d.Delete(context.Background(), id)
		}
	})
	return d
}

func (d *direct) Spawn(_ context.Context, r monitor.SpawnRequest, files []*os.File) (monitor.Created, error) {
	log, err := os.Create(r.LogPath)
	if err != nil {
		return monitor.Created{}, err
	}
	defer log.Close()
	cmd := exec.Command(r.Args[0], r.Args[1:]...)
	cmd.Env, cmd.Dir, cmd.ExtraFiles, cmd.Stdout, cmd.Stderr = r.Env, r.Dir, files, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return monitor.Created{}, fmt.Errorf("spawn: %w: %w", errdefs.ErrNotFound, err)
	}
	c := &child{cmd: cmd, done: make(chan struct{})}
	go func() { _ = cmd.Wait(); close(c.done) }()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.processes[r.ID] = c
	d.spawned = append(d.spawned, r)
	return monitor.Created{Pid: cmd.Process.Pid}, nil
}

func (d *direct) find(id string) (*child, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if c := d.processes[id]; c != nil {
		return c, nil
	}
	return nil, fmt.Errorf("find process: %w", errdefs.ErrNotFound)
}

func (d *direct) State(_ context.Context, id string) (runtime.State, error) {
	c, err := d.find(id)
	if err != nil {
		return runtime.State{}, err
	}
	select {
	case <-c.done:
		return runtime.State{Phase: runtime.Exited}, nil
	default:
		return runtime.State{Phase: runtime.Running, Pid: c.cmd.Process.Pid}, nil
	}
}

func (d *direct) Wait(ctx context.Context, id string) (runtime.Exit, error) {
	c, err := d.find(id)
	if err != nil {
		return runtime.Exit{}, err
	}
	select {
	case <-c.done:
		return runtime.Exit{Code: int32(c.cmd.ProcessState.ExitCode())}, nil
	case <-ctx.Done():
		return runtime.Exit{}, ctx.Err()
	}
}

func (d *direct) Delete(_ context.Context, id string) error {
	c, err := d.find(id)
	if err != nil {
		return nil
	}
	_ = c.cmd.Process.Kill()
	<-c.done
	d.mu.Lock()
	delete(d.processes, id)
	d.mu.Unlock()
	return nil
}
