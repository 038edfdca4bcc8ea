package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/cmd/cribench/figures"
)

const (
	// greeting is how long an endpoint may take to answer for the first time.
	greeting = 10 * time.Second
	// cleanUp is how long the removal of everything that is left may take.
	cleanUp = 3 * time.Minute
	// runLabel marks the pods of a run.
	runLabel = "cribench/run"
	// maxMessage is the largest answer: lists of many hundred pods.
	maxMessage = 64 << 20
)

// quick is how to connect again to a daemon that is started anew.
var quick = backoff.Config{BaseDelay: 5 * time.Millisecond, Multiplier: 1, MaxDelay: 5 * time.Millisecond}

// bench measures one endpoint.
type bench struct {
	endpoint endpoint
	o        options
	result   *figures.Endpoint
	conn     *grpc.ClientConn
	runtime  cri.RuntimeServiceClient
	images   cri.ImageServiceClient
	id       string // of the run and the endpoint in it
	dir      string // for logs and what pods mount
	cgroup   string // parent of the pods', as the kubelet gives one
	serial   atomic.Int64
	pulled   []string // images that were not there before
	standing *pod     // of sections that come back to one pod
}

// newBench connects to the endpoint and pulls the image if it is not there.
func newBench(ctx context.Context, e endpoint, o options, id string) (*bench, error) {
	conn, err := grpc.NewClient(e.address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: quick, MinConnectTimeout: time.Second}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithUnaryInterceptor(limit(o.timeout)))
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", e.address, err)
	}
	b := &bench{
		endpoint: e, o: o, id: id, conn: conn,
		result:  &figures.Endpoint{Name: e.name, Handler: e.handler},
		runtime: cri.NewRuntimeServiceClient(conn), images: cri.NewImageServiceClient(conn),
	}
	if b.dir, err = os.MkdirTemp("", "cribench-"); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	if err := b.prepare(ctx); err != nil {
		return nil, errors.Join(err, b.close())
	}
	return b, nil
}

// limit gives every call a deadline.
func limit(timeout time.Duration) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, call grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		return call(ctx, method, req, reply, conn, opts...)
	}
}

func (b *bench) prepare(ctx context.Context) error {
	hello, cancel := context.WithTimeout(ctx, greeting)
	defer cancel()
	v, err := b.runtime.Version(hello, &cri.VersionRequest{})
	if err != nil {
		return fmt.Errorf("no runtime answers on %s (does it run, and may you use its socket?): %w", b.endpoint.address, err)
	}
	b.result.Version = v.GetRuntimeName() + " " + v.GetRuntimeVersion()
	b.cgroup = b.cgroupParent(ctx)
	there, err := b.hasImage(ctx, b.o.image)
	if err != nil || there {
		return err
	}
	return b.pull(ctx, b.o.image)
}

func (b *bench) hasImage(ctx context.Context, name string) (bool, error) {
	s, err := b.images.ImageStatus(ctx, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: name}})
	if err != nil {
		return false, fmt.Errorf("look for image %s: %w", name, err)
	}
	return s.GetImage() != nil, nil
}

// pull pulls an image that is not there and notes that it is to be removed.
func (b *bench) pull(ctx context.Context, name string) error {
	b.pulled = append(b.pulled, name)
	if _, err := b.images.PullImage(ctx, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: name}}); err != nil {
		return fmt.Errorf("pull image %s: %w", name, err)
	}
	return nil
}

// close removes all that was made, whether the run has ended or was ended.
func (b *bench) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), cleanUp)
	defer cancel()
	err := b.sweep(ctx)
	for _, name := range b.pulled {
		if _, e := b.images.RemoveImage(ctx, &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: name}}); e != nil {
			err = errors.Join(err, fmt.Errorf("remove image %s: %w", name, e))
		}
	}
	removeCgroups()
	return errors.Join(err, b.conn.Close(), os.RemoveAll(b.dir))
}

// cgroupName is that of the cgroup in which pods are.
const cgroupName = "cribench"

// cgroupParent is that cgroup in the way of the runtime's driver. Some runtimes have no figures
// of a pod without one.
func (b *bench) cgroupParent(ctx context.Context) string {
	r, err := b.runtime.RuntimeConfig(ctx, &cri.RuntimeConfigRequest{})
	if err == nil && r.GetLinux().GetCgroupDriver() == cri.CgroupDriver_SYSTEMD {
		return cgroupName + ".slice" // which systemd removes
	}
	return "/" + cgroupName
}

// removeCgroups removes the cgroup in every hierarchy, if it is empty.
func removeCgroups() {
	for _, pattern := range []string{"/sys/fs/cgroup/" + cgroupName, "/sys/fs/cgroup/*/" + cgroupName} {
		dirs, _ := filepath.Glob(pattern) // the pattern is good
		for _, dir := range dirs {
			os.Remove(dir)
		}
	}
}

// sweep removes the run's pods, also those that were made after their caller had gone.
func (b *bench) sweep(ctx context.Context) error {
	list, err := b.runtime.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{
		Filter: &cri.PodSandboxFilter{LabelSelector: map[string]string{runLabel: b.id}},
	})
	if err != nil {
		if b.serial.Load() == 0 {
			return nil // nothing was made
		}
		return fmt.Errorf("look for pods that are left: %w", err)
	}
	var group errgroup.Group
	group.SetLimit(b.o.workers)
	for _, p := range list.GetItems() {
		// The filter is the runtime's to keep; what is removed is ours in any case.
		if p.GetLabels()[runLabel] != b.id {
			continue
		}
		group.Go(func() error { return b.discard(ctx, p.GetId()) })
	}
	return group.Wait()
}

// discard removes a pod whatever state it is in.
func (b *bench) discard(ctx context.Context, id string) error {
	_, stopErr := b.runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: id})
	if _, err := b.runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: id}); err != nil {
		return fmt.Errorf("remove pod %s: %w", id, errors.Join(stopErr, err))
	}
	return nil
}

// meter keeps how long calls of a section take, if they count.
type meter struct {
	to      *figures.Endpoint
	section string
	off     bool
}

func (b *bench) meter(section string) meter { return meter{to: b.result, section: section} }

// silent is a meter that keeps nothing.
func silent() meter { return meter{off: true} }

// timed runs f and keeps how long it took.
func (m meter) timed(name string, f func() error) error {
	began := time.Now()
	if err := f(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if !m.off {
		m.to.AddTime(m.section, name, time.Since(began))
	}
	return nil
}

// pause waits, or less if the context ends.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
