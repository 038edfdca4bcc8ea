package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"slices"

	"github.com/cricket-cri/cricket/cri"
	"github.com/cricket-cri/cricket/cri/config"
	"github.com/cricket-cri/cricket/runtime/layer"
	"github.com/cricket-cri/cricket/sandbox"
	"github.com/cricket-cri/cricket/sandbox/cni"
	"github.com/cricket-cri/cricket/vmsandbox"
	"github.com/cricket-cri/cricket/vmsandbox/image"
	"github.com/cricket-cri/cricket/vmsandbox/node"
	"github.com/cricket-cri/cricket/vmsandbox/vmm"
)

// virtualParts are the parts of the daemon that virtual machines need.
type virtualParts struct {
	systemd bool
	keep    *keeper
	layers  *layer.Store
	network *cni.Network
	traces  *tracing
	log     *slog.Logger
}

// addVirtual adds the handlers of virtual machines to drivers, if there are any and what
// they need is installed. The machines that are returned may be nil.
func addVirtual(c config.Config, drivers map[string]sandbox.Driver, v virtualParts) (*machines, error) {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(c.Runtimes)) {
		if c.Runtimes[name].Type == config.TypeVM {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil, nil
	}
	found, err := image.Find(image.Wanted{
		QEMU: c.VM.QEMU, Dir: c.VM.Image, Kernel: c.VM.Kernel, Initrd: c.VM.Initrd, Cmdline: c.VM.Cmdline,
	})
	if err != nil {
		v.log.Info("runtime handler is left out", "handlers", names, "reason", err)
		return nil, nil
	}
	launcher, err := monitorPath()
	if err != nil {
		return nil, err
	}
	n, err := node.New(node.Options{
		Root: c.Root, State: c.State, Launcher: launcher, Image: found,
		Shape: vmm.Shape{
			Machine: c.VM.Machine, CPU: c.VM.CPU, VCPUs: c.VM.VCPUs, MemoryMiB: c.VM.Memory, MaxMemoryMiB: c.VM.MaxMemory,
		},
		Accelerator: c.VM.Accelerator, Pool: c.VM.Pool, DiskMiB: c.VM.Disk,
		Unshared: c.VM.Isolation == config.IsolationStrict, Rootfs: vmsandbox.Rootfs(c.VM.Rootfs),
		Monitor: v.keep.client, Layers: v.layers, Network: v.network,
		SystemdCgroup: v.systemd, MaxLogLine: c.Containers.MaxLogLine, Trace: v.traces.flows(), Log: v.log,
	})
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		drivers[name] = n.Driver
	}
	return &machines{n}, nil
}

// machines are the virtual ones of the node. Nil stands for none.
type machines struct{ node *node.Node }

// start begins to make machines.
func (m *machines) start(ctx context.Context) {
	if m != nil {
		m.node.Start(ctx)
	}
}

func (m *machines) close() error {
	if m == nil {
		return nil
	}
	return m.node.Close()
}

// conditions says whether pods can be virtual machines. Where nothing of them is installed
// there is no such condition.
func (m *machines) conditions() []cri.Condition {
	if m == nil {
		return nil
	}
	c := m.node.Status().Condition()
	return []cri.Condition{{Type: c.Type, Status: c.Status, Reason: c.Reason, Message: c.Message}}
}

// measure adds the metrics of machines.
func (m *machines) measure(all *cri.Metrics) {
	if m != nil {
		all.Add(node.Metrics(m.node.Status))
	}
}

// info adds what a verbose Status shows of virtual machines.
func (m *machines) info(all map[string]string) map[string]string {
	if m == nil || all == nil {
		return all
	}
	if text, err := json.Marshal(m.node.Status()); err == nil {
		all["vm"] = string(text)
	}
	return all
}
