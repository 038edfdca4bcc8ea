package harness

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// quick is how a client waits between attempts to connect to a daemon that is starting.
var quick = backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1, MaxDelay: 20 * time.Millisecond}

// Daemon is a runtime's daemon under test.
type Daemon struct {
	Process
	Paths Paths
}

// NewDaemon describes a daemon and does not start it.
func NewDaemon(p Paths, s Starter) *Daemon {
	return &Daemon{Paths: p, Process: Process{
		Name: "the daemon", Log: p.Log, Command: func() (*exec.Cmd, error) { return s(p) },
	}}
}

// Start starts the daemon and returns when it answers Version.
func (d *Daemon) Start(ctx context.Context) error {
	if err := d.Process.Start(); err != nil {
		return err
	}
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
		case <-d.Done():
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
