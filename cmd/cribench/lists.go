package main

import (
	"context"
	"fmt"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// measureLists asks for lists, status and figures while many pods are there.
func measureLists(ctx context.Context, s *session) error {
	return s.each(ctx, "lists", func(b *bench) error {
		for _, n := range b.endpoint.listPods {
			if err := b.lists(ctx, n); err != nil {
				return fmt.Errorf("with %d pods: %w", n, err)
			}
		}
		return nil
	})
}

func (b *bench) lists(ctx context.Context, n int) error {
	all := b.newPods(n)
	defer all.remove(ctx)
	if err := all.start(ctx, b.o.workers); err != nil {
		return err
	}
	m := b.meter(fmt.Sprintf("list-%d", n))
	questions := b.questions(ctx, all[0], n)
	for turn := range b.o.calls + 1 {
		timing := m
		timing.off = turn == 0
		for _, q := range questions {
			if err := timing.timed(q.name, q.do); err != nil {
				return err
			}
		}
		if err := b.age(ctx, timing); err != nil {
			return err
		}
	}
	return nil
}

// questions are the calls by which a kubelet and its monitoring look at a node. An answer in
// which pods are missing is an error.
func (b *bench) questions(ctx context.Context, p *pod, n int) []call {
	complete := func(got int, err error) error {
		if err == nil && got < n {
			return fmt.Errorf("%d of %d are told", got, n)
		}
		return err
	}
	return []call{
		{"Version", func() error {
			_, err := b.runtime.Version(ctx, &cri.VersionRequest{})
			return err
		}},
		{"Status", func() error {
			_, err := b.runtime.Status(ctx, &cri.StatusRequest{})
			return err
		}},
		{"ListPodSandbox", func() error {
			r, err := b.runtime.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
			return complete(len(r.GetItems()), err)
		}},
		{"ListContainers", func() error {
			r, err := b.runtime.ListContainers(ctx, &cri.ListContainersRequest{})
			return complete(len(r.GetContainers()), err)
		}},
		{"PodSandboxStatus", func() error {
			_, err := b.runtime.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: p.id})
			return err
		}},
		{"ContainerStatus", func() error {
			_, err := b.runtime.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: p.ctr})
			return err
		}},
		{"ContainerStats", func() error {
			_, err := b.runtime.ContainerStats(ctx, &cri.ContainerStatsRequest{ContainerId: p.ctr})
			return err
		}},
		{"ListContainerStats", func() error {
			r, err := b.runtime.ListContainerStats(ctx, &cri.ListContainerStatsRequest{})
			return complete(len(r.GetStats()), err)
		}},
		{"ListPodSandboxStats", func() error {
			r, err := b.runtime.ListPodSandboxStats(ctx, &cri.ListPodSandboxStatsRequest{})
			return complete(len(r.GetStats()), err)
		}},
		{"ListImages", func() error {
			_, err := b.images.ListImages(ctx, &cri.ListImagesRequest{})
			return err
		}},
	}
}

// age keeps how old the oldest of our figures is by its own timestamp: a quick answer may be
// one that was prepared.
func (b *bench) age(ctx context.Context, m meter) error {
	r, err := b.runtime.ListContainerStats(ctx, &cri.ListContainerStatsRequest{
		Filter: &cri.ContainerStatsFilter{LabelSelector: map[string]string{runLabel: b.id}},
	})
	if err != nil || m.off {
		return err
	}
	now := time.Now().UnixNano()
	oldest := now
	for _, s := range r.GetStats() {
		oldest = min(oldest, s.GetCpu().GetTimestamp())
	}
	m.to.AddTime(m.section, "age of the oldest figure", time.Duration(now-oldest))
	return nil
}
