package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// cleanUp is how long removing pods may take when a measurement ended early.
const cleanUp = time.Minute

// bench measures one endpoint.
type bench struct {
	endpoint endpoint
	o        options
	result   *result
	conn     *grpc.ClientConn
	runtime  cri.RuntimeServiceClient
	logs     string
	serial   atomic.Int64
}

// newBench connects to the endpoint and pulls the image if it is not there.
func newBench(ctx context.Context, e endpoint, o options, r *result) (*bench, error) {
	conn, err := grpc.NewClient(e.address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	b := &bench{endpoint: e, o: o, result: r, conn: conn, runtime: cri.NewRuntimeServiceClient(conn)}
	if b.logs, err = os.MkdirTemp("", "cribench-"); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	if err := b.prepare(ctx); err != nil {
		b.close()
		return nil, err
	}
	return b, nil
}

func (b *bench) prepare(ctx context.Context) error {
	v, err := b.runtime.Version(ctx, &cri.VersionRequest{})
	if err != nil {
		return fmt.Errorf("ask for its version: %w", err)
	}
	b.result.Version = v.GetRuntimeName() + " " + v.GetRuntimeVersion()
	images := cri.NewImageServiceClient(b.conn)
	spec := &cri.ImageSpec{Image: b.o.image}
	s, err := images.ImageStatus(ctx, &cri.ImageStatusRequest{Image: spec})
	if err != nil {
		return fmt.Errorf("look for the image: %w", err)
	}
	if s.GetImage() != nil {
		return nil
	}
	return b.timed("PullImage", true, func() error {
		_, err := images.PullImage(ctx, &cri.PullImageRequest{Image: spec})
		return err
	})
}

func (b *bench) close() {
	_ = b.conn.Close()
	_ = os.RemoveAll(b.logs)
}

// timed runs f and, if it counts, keeps how long it took.
func (b *bench) timed(name string, counts bool, f func() error) error {
	began := time.Now()
	if err := f(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if counts {
		b.result.add(name, time.Since(began))
	}
	return nil
}

// round leads one pod's life.
func (b *bench) round(ctx context.Context, counts bool) error {
	p := b.newPod()
	defer b.discard(ctx, p)
	if err := p.start(ctx, "", counts); err != nil {
		return err
	}
	for range b.o.execs {
		if err := p.exec(ctx, "", counts); err != nil {
			return err
		}
	}
	return p.stop(ctx, "", counts)
}

// burst leads n pods' lives at once, step by step: all are started, then each runs
// a program, then all are stopped.
func (b *bench) burst(ctx context.Context, n int) error {
	prefix := fmt.Sprintf("%d at once: ", n)
	pods := make([]*pod, n)
	for i := range pods {
		pods[i] = b.newPod()
		defer b.discard(ctx, pods[i])
	}
	steps := []struct {
		name string
		do   func(*pod) error
	}{
		{"all started", func(p *pod) error { return p.start(ctx, prefix, true) }},
		{"all ran a program", func(p *pod) error { return p.exec(ctx, prefix, true) }},
		{"all stopped", func(p *pod) error { return p.stop(ctx, prefix, true) }},
	}
	for _, s := range steps {
		if err := b.timed(prefix+s.name, true, func() error { return together(pods, s.do) }); err != nil {
			return err
		}
	}
	return nil
}

// memory reads the memory of the endpoint's processes without pods, with n, and with n
// that have done something.
func (b *bench) memory(ctx context.Context, n int) error {
	before, err := processMemory(b.endpoint.processes)
	if err != nil {
		return err
	}
	pods := make([]*pod, n)
	for i := range pods {
		pods[i] = b.newPod()
		defer b.discard(ctx, pods[i])
		if err := pods[i].start(ctx, "", false); err != nil {
			return err
		}
	}
	m := &memoryResult{Pods: n, Idle: before}
	if m.Loaded, err = settledMemory(ctx, b.endpoint.processes); err != nil {
		return err
	}
	if b.o.use != "" {
		for _, p := range pods {
			if err := p.run(ctx, "sh", "-c", b.o.use); err != nil {
				return err
			}
		}
		used, err := settledMemory(ctx, b.endpoint.processes)
		if err != nil {
			return err
		}
		m.Used = &used
	}
	b.result.Memory = m
	return nil
}

// settleTime is how long pods idle before their memory is read.
const settleTime = 5 * time.Second

func settledMemory(ctx context.Context, processes []string) (usage, error) {
	select {
	case <-time.After(settleTime):
		return processMemory(processes)
	case <-ctx.Done():
		return usage{}, ctx.Err()
	}
}

// discard removes a pod that a measurement did not.
func (b *bench) discard(ctx context.Context, p *pod) {
	if p.id == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUp)
	defer cancel()
	_, _ = b.runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: p.id})
	if _, err := b.runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: p.id}); err != nil {
		fmt.Fprintf(os.Stderr, "cribench: pod %s of %s is left behind: %v\n", p.id, b.endpoint.name, err)
	}
}

// together calls f for every pod at once and waits for all.
func together(pods []*pod, f func(*pod) error) error {
	errs := make([]error, len(pods))
	var group sync.WaitGroup
	for i, p := range pods {
		group.Go(func() { errs[i] = f(p) })
	}
	group.Wait()
	return errors.Join(errs...)
}
