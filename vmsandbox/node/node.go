package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"

	"github.com/cricket-cri/cricket/runtime/flow"
	"github.com/cricket-cri/cricket/runtime/monitor"
	"github.com/cricket-cri/cricket/vmsandbox"
	"github.com/cricket-cri/cricket/vmsandbox/accel"
	"github.com/cricket-cri/cricket/vmsandbox/agent"
	"github.com/cricket-cri/cricket/vmsandbox/disk"
	"github.com/cricket-cri/cricket/vmsandbox/image"
	"github.com/cricket-cri/cricket/vmsandbox/network"
	"github.com/cricket-cri/cricket/vmsandbox/qemu"
	"github.com/cricket-cri/cricket/vmsandbox/template"
	"github.com/cricket-cri/cricket/vmsandbox/vmm"
	"github.com/cricket-cri/cricket/vmsandbox/volume"
)

// Options are what virtual machines need of their node.
type Options struct {
	// Root survives reboots, State does not and is short: sockets lie below. Both are
	// shared with other drivers; what is here is below their directory "vm".
	Root, State string
	// Launcher is the program cricket-monitor, which confines QEMU.
	Launcher string
	// Image is what machines boot.
	Image image.Found
	// Shape of the machines; accelerator, kernel, initrd and command line are filled in.
	Shape vmm.Shape
	// Accelerator is accel.Auto, accel.KVM or accel.TCG.
	Accelerator string
	// Pool is how many machines wait for pods, DiskMiB how large their writable disks are.
	Pool, DiskMiB int
	// Unshared machines share no memory with each other, and no page cache of images.
	Unshared bool
	// Rootfs is RootfsAuto, or how machines read images.
	Rootfs vmsandbox.Rootfs

	// Monitor is the node's, Layers and Network are shared with other drivers.
	Monitor *monitor.Client
	Layers  vmsandbox.Layers
	Network vmsandbox.Network
	// SystemdCgroup lets systemd keep the cgroups of the host.
	SystemdCgroup bool
	// MaxLogLine is in bytes; 0 leaves it to the monitors.
	MaxLogLine int
	// Trace opens spans of what is made for the stock of machines; may be nil.
	Trace flow.Tracer
	Log   *slog.Logger
}

// RootfsAuto leaves it to the node how machines read images.
const RootfsAuto vmsandbox.Rootfs = "auto"

// Node runs virtual machines.
type Node struct {
	// Driver makes their pods.
	Driver *vmsandbox.Driver

	options     template.Options
	accelerator string
	proof       accel.Options
	disks       *disk.Store
	watcher     *volume.Watcher
	// found attaches and removes; it makes nothing.
	found *template.Pool
	// claimed are the machines that pods had when the node was made.
	claimed []string
	log     *slog.Logger
	// rootfs is final when ready is closed.
	rootfs vmsandbox.Rootfs

	stop context.CancelFunc
	work sync.WaitGroup
	// ready is closed when pool, or why there is none, is known.
	ready   chan struct{}
	pool    *template.Pool
	err     error
	verdict accel.Verdict
	// platform is final when ready is closed, but for the hypervisor's version.
	platform vmsandbox.Platform
}

// New finds the machines of pods again. It makes none: Start does.
func New(o Options) (*Node, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	n, err := prepare(o)
	if err != nil {
		return nil, fmt.Errorf("prepare virtual machines: %w", err)
	}
	n.Driver, err = vmsandbox.NewDriver(vmsandbox.Options{
		State: o.State, Machines: machines{n}, Mirrors: mirrors{o.Monitor, o.MaxLogLine}, Layers: o.Layers, Disks: n.disks,
		Volumes: n.volumes,
		Network: o.Network, SystemdCgroup: o.SystemdCgroup, MaxMemoryMiB: o.Shape.MaxMemoryMiB, MaxLogLine: o.MaxLogLine, Log: o.Log,
	})
	if err != nil {
		return nil, fmt.Errorf("make driver of virtual machines: %w", err)
	}
	if n.claimed, err = n.Driver.Claimed(); err != nil {
		return nil, fmt.Errorf("find virtual machines of pods: %w", err)
	}
	return n, nil
}

// volumes makes those of a pod; those of a checkpoint lie elsewhere than they did.
func (n *Node) volumes(v vmsandbox.VolumeOptions) (vmsandbox.Volumes, error) {
	if v.Moved != nil {
		var moved []volume.Moved
		for _, m := range v.Moved {
			moved = append(moved, volume.Moved(m))
		}
		var err error
		if v.State, err = volume.Move(v.State, moved); err != nil {
			return nil, err
		}
	}
	return volume.New(volume.Options{Guest: v.Guest, Dir: v.Dir, Disk: v.Disk, Watcher: n.watcher, State: v.State, Changed: v.Changed, Log: n.log})
}

func prepare(o Options) (*Node, error) {
	hypervisor, err := o.hypervisor("machines", qemu.DefaultFirstUser, qemu.DefaultUsers)
	if err != nil {
		return nil, err
	}
	disks, err := disk.Open(disk.Options{Dir: filepath.Join(o.Root, "vm", "disks"), Bytes: int64(o.DiskMiB) << 20, Log: o.Log})
	if err != nil {
		return nil, err
	}
	shape := o.shape()
	n := &Node{
		disks: disks, watcher: volume.NewWatcher(), log: o.Log, ready: make(chan struct{}), rootfs: o.Rootfs,
		options: template.Options{
			Hypervisor: hypervisor, Dir: filepath.Join(o.State, "vm", "pool"), Shape: shape, Size: o.Pool,
			Unshared: o.Unshared, Tap: network.MakeTap, Release: network.Remove,
			Disks: disks, Trace: o.Trace, Log: o.Log,
			Warm: func(ctx context.Context, vm *template.VM) error { return vmsandbox.Warm(ctx, machineOf(vm)) },
		},
		accelerator: o.Accelerator, proof: o.proof(hypervisor),
	}
	n.found, err = template.New(n.options)
	return n, err
}

// hypervisor keeps its machines in a directory of that name, which run as some of users.
func (o Options) hypervisor(dir string, firstUser, users uint32) (vmm.Hypervisor, error) {
	return qemu.New(qemu.Options{
		Program: o.Image.QEMU, State: filepath.Join(o.State, "vm", dir), Monitor: o.Monitor, Log: o.Log,
		Confine: &qemu.Confine{
			Launcher: []string{o.Launcher, "confine"}, FirstUser: firstUser, Users: users,
			Files: qemu.DefaultFiles(o.Image.QEMU),
		},
	})
}

// shape is that of machines before it is known how they run.
func (o Options) shape() vmm.Shape {
	s := o.Shape
	s.Accelerator = vmm.AccelTCG
	s.Kernel, s.Initrd, s.Cmdline = o.Image.Kernel, o.Image.Initrd, o.Image.Cmdline
	return s
}

func (o Options) proof(h vmm.Hypervisor) accel.Options {
	return accel.Options{Hypervisor: h, Shape: o.shape(), Cache: filepath.Join(o.Root, "vm", "accel.json"), Log: o.Log}
}

// Start begins in the background to find out how machines run, to remove those that are
// nobody's, and to make others, which takes all of a processor for seconds: the node is as
// good as ready when it returns, but the first Create may wait. It is called once. Ctx does
// not bound what goes on in the background; Close ends it.
func (n *Node) Start(ctx context.Context) {
	ctx, n.stop = context.WithCancel(context.WithoutCancel(ctx))
	n.work.Go(func() {
		defer close(n.ready)
		if n.verdict, n.err = accel.Choose(ctx, n.accelerator, false, n.proof); n.err != nil {
			n.log.Error("virtual machines cannot run", "error", n.err)
			return
		}
		n.options.Shape.Accelerator = n.verdict.Accelerator
		n.chooseRootfs()
		if n.platform, n.err = platformOf(n.options.Shape, n.disks.Bytes()); n.err != nil {
			n.log.Error("virtual machines cannot run", "error", n.err)
			return
		}
		if n.pool, n.err = template.New(n.options); n.err != nil {
			return
		}
		if err := n.pool.Start(ctx, n.claimed); err != nil {
			n.log.Warn("machines of an earlier daemon are not all removed", "error", err)
		}
		n.log.Info("virtual machines run", "accelerator", n.verdict.Accelerator, "reason", n.verdict.Reason)
	})
}

// chooseRootfs decides how machines read images, and has the template prepare for it.
func (n *Node) chooseRootfs() {
	switch {
	case n.options.Unshared:
		n.rootfs = vmsandbox.RootfsDirect
	case n.rootfs == RootfsAuto:
		n.rootfs = vmsandbox.RootfsDisk // what measured best where guests are emulated (docs/decisions/0008)
	}
	if n.rootfs == vmsandbox.RootfsDAX {
		n.options.Shape.Cmdline = strings.TrimSpace(n.options.Shape.Cmdline + " " + agent.WordMapped)
	}
}

// Close removes the machines that nobody has claimed; the others run on. A node that was
// never started has made none.
func (n *Node) Close() error {
	err := n.watcher.Close()
	if n.stop == nil {
		return err
	}
	n.stop()
	n.work.Wait()
	if n.pool == nil {
		return err
	}
	return errors.Join(err, n.pool.Close())
}
