package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// startTimeout is how long a daemon may take until it answers.
const startTimeout = 60 * time.Second

// quick is how a client waits between attempts to connect to a daemon that is starting.
var quick = backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1, MaxDelay: 20 * time.Millisecond}

// Daemon is a runtime's daemon under test. Its methods are for one goroutine.
type Daemon struct {
	Paths Paths
	start Starter
	cmd   *exec.Cmd
	ended chan struct{} // closed when cmd has been reaped
	log   *os.File
}

// NewDaemon describes a daemon and does not start it.
func NewDaemon(p Paths, s Starter) *Daemon { return &Daemon{Paths: p, start: s} }

// Start starts the daemon and returns when it answers Version. Its output is appended
// to the log.
func (d *Daemon) Start(ctx context.Context) error {
	c, err := d.start(d.Paths)
	if err != nil {
		return fmt.Errorf("prepare the daemon: %w", err)
	}
	if d.log, err = os.OpenFile(d.Paths.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644); err != nil {
		return err
	}
	c.Stdout, c.Stderr = d.log, d.log
	// A signal for the tests' process group is not for the daemon.
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := c.Start(); err != nil {
		return fmt.Errorf("start the daemon: %w", err)
	}
	d.cmd, d.ended = c, make(chan struct{})
	ended := d.ended
	go func() {
		_ = c.Wait()
		close(ended)
	}()
	if err := d.ready(ctx); err != nil {
		return errors.Join(fmt.Errorf("wait for the daemon: %w", err), d.Kill())
	}
	return nil
}

func (d *Daemon) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	conn, err := d.Dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	go func() {
		select {
		case <-d.ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	_, err = cri.NewRuntimeServiceClient(conn).Version(ctx, &cri.VersionRequest{}, grpc.WaitForReady(true))
	return err
}

// Dial connects to the daemon's socket; the daemon need not run yet.
func (d *Daemon) Dial() (*grpc.ClientConn, error) {
	return grpc.NewClient("unix://"+d.Paths.Socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: quick, MinConnectTimeout: time.Second}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20), grpc.MaxCallSendMsgSize(64<<20)))
}

// Pid is the daemon's process id, 0 if it does not run.
func (d *Daemon) Pid() int {
	if d.cmd == nil {
		return 0
	}
	return d.cmd.Process.Pid
}

// Kill ends the daemon with SIGKILL and returns when it is gone. What it started runs
// on.
func (d *Daemon) Kill() error { return d.end(syscall.SIGKILL, startTimeout) }

// Stop ends the daemon with SIGTERM and returns when it is gone.
func (d *Daemon) Stop() error { return d.end(syscall.SIGTERM, startTimeout) }

func (d *Daemon) end(s syscall.Signal, timeout time.Duration) error {
	if d.cmd == nil {
		return nil
	}
	if err := d.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal the daemon: %w", err)
	}
	select {
	case <-d.ended:
	case <-time.After(timeout):
		return fmt.Errorf("the daemon runs on %s after %s", timeout, s)
	}
	d.cmd = nil
	return d.log.Close()
}

// RemovePods stops and removes every sandbox of the runtime.
func (d *Daemon) RemovePods(ctx context.Context) error {
	conn, err := d.Dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	client := cri.NewRuntimeServiceClient(conn)
	list, err := client.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
	if err != nil {
		return err
	}
	for _, p := range list.GetItems() {
		_, stopErr := client.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: p.GetId()})
		_, removeErr := client.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: p.GetId()})
		err = errors.Join(err, stopErr, removeErr)
	}
	return err
}

// RemoveImages removes every image of the runtime that is not pinned.
func (d *Daemon) RemoveImages(ctx context.Context) error {
	conn, err := d.Dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	client := cri.NewImageServiceClient(conn)
	list, err := client.ListImages(ctx, &cri.ListImagesRequest{})
	if err != nil {
		return err
	}
	for _, i := range list.GetImages() {
		if i.GetPinned() {
			continue
		}
		_, removeErr := client.RemoveImage(ctx, &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: i.GetId()}})
		err = errors.Join(err, removeErr)
	}
	return err
}

// WarmUp runs and removes one pod with a host port, so that what a runtime and the CNI
// plugins make once and keep (a bridge, chains, a parent cgroup) is there before a
// Snapshot is taken.
func (d *Daemon) WarmUp(ctx context.Context) error {
	conn, err := d.Dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = cri.NewRuntimeServiceClient(conn).RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: "warm-up", Namespace: "test", Uid: "warm-up"},
		PortMappings: []*cri.PortMapping{{Protocol: cri.Protocol_TCP, ContainerPort: 80, HostPort: 18080}},
		Linux: &cri.LinuxPodSandboxConfig{SecurityContext: &cri.LinuxSandboxSecurityContext{
			NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER},
		}},
	}})
	return errors.Join(err, d.RemovePods(ctx))
}

// Ended waits for the daemon to end by itself and tells whether it did. Start may be
// called after that.
func (d *Daemon) Ended(within time.Duration) bool {
	select {
	case <-d.ended:
		d.cmd = nil
		d.log.Close()
		return true
	case <-time.After(within):
		return false
	}
}
