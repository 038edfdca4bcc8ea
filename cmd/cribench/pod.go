package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// leavesOnTerm is a first process that ends at once on SIGTERM. The kernel drops signals
// that a first process has no handler for, and the grace period would be measured.
const leavesOnTerm = "trap 'exit 0' TERM; : >/trapped; while :; do sleep 1000 & wait; done"

// untilTrapped waits for the handler.
const untilTrapped = "until [ -e /trapped ]; do sleep 0.01; done"

// The masked and read-only paths that the kubelet sends.
var (
	maskedPaths   = []string{"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap"}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

// pod is one pod with one container.
type pod struct {
	b         *bench
	config    *cri.PodSandboxConfig
	container *cri.ContainerConfig
	id        string // of the sandbox while it exists
	ctr       string
}

func (b *bench) newPod() *pod {
	name := fmt.Sprintf("cribench-%s-%d", b.id, b.serial.Add(1))
	network := cri.NamespaceMode_POD
	if b.o.hostNet {
		network = cri.NamespaceMode_NODE
	}
	ns := &cri.NamespaceOption{Network: network, Pid: cri.NamespaceMode_CONTAINER}
	return &pod{
		b: b,
		config: &cri.PodSandboxConfig{
			Metadata:     &cri.PodSandboxMetadata{Name: name, Namespace: "cribench", Uid: name},
			Hostname:     name,
			Labels:       map[string]string{runLabel: b.id},
			LogDirectory: filepath.Join(b.dir, name),
			DnsConfig:    &cri.DNSConfig{Servers: []string{"10.96.0.10"}, Searches: []string{"svc.cluster.local"}, Options: []string{"ndots:5"}},
			Linux: &cri.LinuxPodSandboxConfig{
				CgroupParent:    b.cgroup,
				SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: ns},
			},
		},
		container: &cri.ContainerConfig{
			Metadata: &cri.ContainerMetadata{Name: "main"},
			Image:    &cri.ImageSpec{Image: b.o.image, UserSpecifiedImage: b.o.image},
			Command:  []string{"sh", "-c", leavesOnTerm},
			Labels:   map[string]string{runLabel: b.id},
			LogPath:  "main/0.log",
			Linux: &cri.LinuxContainerConfig{
				Resources: &cri.LinuxContainerResources{CpuShares: 102, MemoryLimitInBytes: 256 << 20},
				SecurityContext: &cri.LinuxContainerSecurityContext{
					NamespaceOptions: ns, MaskedPaths: maskedPaths, ReadonlyPaths: readonlyPaths,
				},
			},
		},
	}
}

// start brings the pod up; the time of all calls together is the pod's start.
func (p *pod) start(ctx context.Context, m meter) error {
	// The kubelet makes the directories of logs.
	if err := os.MkdirAll(filepath.Join(p.config.LogDirectory, "main"), 0o755); err != nil {
		return err
	}
	return m.timed("pod start", func() error {
		return m.calls([]call{
			{"RunPodSandbox", func() error {
				r, err := p.b.runtime.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: p.config, RuntimeHandler: p.b.endpoint.handler})
				p.id = r.GetPodSandboxId()
				return err
			}},
			{"CreateContainer", func() error {
				r, err := p.b.runtime.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: p.id, Config: p.container, SandboxConfig: p.config})
				p.ctr = r.GetContainerId()
				return err
			}},
			{"StartContainer", func() error {
				_, err := p.b.runtime.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: p.ctr})
				return err
			}},
		})
	})
}

func (p *pod) exec(ctx context.Context, m meter) error {
	return m.timed("ExecSync", func() error { return p.run(ctx, "true") })
}

// run runs a program in the container, which is to succeed.
func (p *pod) run(ctx context.Context, command ...string) error {
	r, err := p.b.runtime.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: p.ctr, Cmd: command, Timeout: 60})
	if err == nil && r.GetExitCode() != 0 {
		return fmt.Errorf("exit code %d: %s", r.GetExitCode(), r.GetStderr())
	}
	return err
}

// ready waits until the first process would end on a signal.
func (p *pod) ready(ctx context.Context) error { return p.run(ctx, "sh", "-c", untilTrapped) }

// grace is how long a container may take to end, in seconds, by itself; ready containers end
// at once.
const grace = 30

// stop takes the pod down; the time of all calls together is the pod's stop.
func (p *pod) stop(ctx context.Context, m meter, seconds int64) error {
	return m.timed("pod stop", func() error {
		return m.calls([]call{
			{"StopContainer", func() error {
				_, err := p.b.runtime.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: p.ctr, Timeout: seconds})
				return err
			}},
			{"RemoveContainer", func() error {
				_, err := p.b.runtime.RemoveContainer(ctx, &cri.RemoveContainerRequest{ContainerId: p.ctr})
				return err
			}},
			{"StopPodSandbox", func() error {
				_, err := p.b.runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: p.id})
				return err
			}},
			{"RemovePodSandbox", func() error {
				_, err := p.b.runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: p.id})
				if err == nil {
					p.id = ""
				}
				return err
			}},
		})
	})
}

// remove removes the pod if it is still there. What it cannot remove the end of the run finds.
func (p *pod) remove(ctx context.Context) {
	if p.id == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUp)
	defer cancel()
	if p.b.discard(ctx, p.id) == nil {
		p.id = ""
	}
}

type call struct {
	name string
	do   func() error
}

// calls makes and times calls one after the other.
func (m meter) calls(calls []call) error {
	for _, c := range calls {
		if err := m.timed(c.name, c.do); err != nil {
			return err
		}
	}
	return nil
}

// pods are several pods of one endpoint.
type pods []*pod

func (b *bench) newPods(n int) pods {
	all := make(pods, n)
	for i := range all {
		all[i] = b.newPod()
	}
	return all
}

// each calls f for every pod, for so many at once, until one fails.
func (all pods) each(ctx context.Context, workers int, f func(context.Context, *pod) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(workers)
	for _, p := range all {
		group.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			return f(ctx, p)
		})
	}
	return group.Wait()
}

// start brings all up, untimed.
func (all pods) start(ctx context.Context, workers int) error {
	return all.each(ctx, workers, func(ctx context.Context, p *pod) error { return p.start(ctx, silent()) })
}

func (all pods) remove(ctx context.Context) {
	if len(all) == 0 {
		return
	}
	_ = all.each(context.WithoutCancel(ctx), all[0].b.o.workers, func(ctx context.Context, p *pod) error {
		p.remove(ctx)
		return nil
	})
}
