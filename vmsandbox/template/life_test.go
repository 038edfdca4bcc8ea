package template

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/flow"
	"github.com/cricket-cri/cricket/runtime/monitor"
	"github.com/cricket-cri/cricket/runtime/mux"
	"github.com/cricket-cri/cricket/runtime/spec"
	"github.com/cricket-cri/cricket/vmsandbox/agent"
	"github.com/cricket-cri/cricket/vmsandbox/seccomp"
	"github.com/cricket-cri/cricket/vmsandbox/vmm"
)

// imageSlot is the slot for the image of the container that warms.
const imageSlot = "ro0"

// warmID is the container's id, and its sandbox's.
const warmID = "warm"

// Life runs a whole container's life in a machine: an image as a disk, a writable layer,
// namespaces, limits, a seccomp filter, a log, an exec, statistics, the end. Nothing of it
// is left. The image is tiny and made in memory. It is safe for concurrent use.
type Life struct {
	image   *os.File
	seccomp *specs.LinuxSeccomp
	caps    *specs.LinuxCapabilities
}

// NewLife makes the image. Close ends it.
func NewLife(ctx context.Context) (*Life, error) {
	caps := spec.DefaultCapabilities()
	profile, err := spec.DefaultSeccomp(caps)
	if err != nil {
		return nil, err
	}
	image, err := smallImage(ctx)
	if err != nil {
		return nil, err
	}
	return &Life{
		image: image, seccomp: profile,
		caps: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
	}, nil
}

// Close frees the image.
func (l *Life) Close() error { return l.image.Close() }

// lifetime is one such life under way.
type lifetime struct {
	*Life
	vm      *VM
	lower   string
	upper   string
	request monitor.CreateRequest
}

// Live is for Options.Warm.
func (l *Life) Live(ctx context.Context, vm *VM) error {
	// Machines without a disk have the writable layer in memory.
	upper := path.Join(agent.DirVolumes, warmID)
	if len(vm.Mounted) > 0 {
		upper = path.Join(agent.DirDisks, vm.Mounted[0], warmID)
	}
	n := &lifetime{Life: l, vm: vm, lower: path.Join(agent.DirDisks, imageSlot), upper: upper}
	return flow.Run(ctx, "warm machine",
		flow.Step{Name: "use ports", Do: n.talk},
		flow.Step{Name: "mount image", Do: n.mount},
		flow.Step{Name: "create container", Do: n.create},
		flow.Step{Name: "run container", Do: n.run},
		flow.Step{Name: "remove container", Do: n.remove})
}

// talk makes the calls that are about the machine as a whole.
func (n *lifetime) talk(ctx context.Context) error {
	g := n.vm.Guest
	err := g.Identify(ctx, agent.Identity{
		UnixNanos: time.Now().UnixNano(), Entropy: make([]byte, 32), MachineID: digest.FromString(warmID).Encoded()[:32], Hostname: warmID,
	})
	if err != nil {
		return fmt.Errorf("identify guest: %w", err)
	}
	// The pod's network sets another hardware address again.
	if err := g.Connect(ctx, agent.Network{Name: "eth0", MAC: "52:54:00:00:00:02", MTU: 1500}); err != nil {
		return fmt.Errorf("configure interface: %w", err)
	}
	if err := g.Sysctl(ctx, map[string]string{"net.ipv4.ip_unprivileged_port_start": "0"}); err != nil {
		return fmt.Errorf("set sysctls: %w", err)
	}
	if _, err := n.vm.Monitor.Hello(ctx); err != nil {
		return fmt.Errorf("ask guest's monitor: %w", err)
	}
	return n.otherPort(ctx)
}

// otherPort greets the guest where the host's monitor will.
func (n *lifetime) otherPort(ctx context.Context) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", n.vm.Machine.Socket(vmm.PortMonitor))
	if err != nil {
		return fmt.Errorf("connect to the monitor's port: %w: %w", errdefs.ErrUnavailable, err)
	}
	s, err := mux.Connect(ctx, conn, mux.Options{})
	if err != nil {
		return fmt.Errorf("connect to the monitor's port: %w", err)
	}
	c := monitor.NewClient(func(ctx context.Context) (net.Conn, error) { return s.Open(ctx, agent.ServiceMonitor) })
	_, err = c.Hello(ctx)
	if err := errors.Join(err, s.Close()); err != nil {
		return fmt.Errorf("use the monitor's port: %w", err)
	}
	return nil
}

func (n *lifetime) mount(ctx context.Context) error {
	err := n.vm.Machine.SetDisk(ctx, imageSlot, vmm.Disk{Files: []string{fmt.Sprintf("/proc/self/fd/%d", n.image.Fd())}, ReadOnly: true})
	if err != nil {
		return fmt.Errorf("put image into slot: %w", err)
	}
	err = n.vm.Guest.Mount(ctx, agent.Mount{Slot: imageSlot, Target: n.lower, Type: "erofs", Options: []string{"ro"}})
	if err != nil {
		return fmt.Errorf("mount image: %w", err)
	}
	return nil
}

func (n *lifetime) create(ctx context.Context) error {
	bundle := path.Join(agent.DirContainers, warmID)
	hosts := path.Join(agent.DirVolumes, warmID+"-hosts")
	place := spec.Place{
		Rootfs: "rootfs", CgroupsPath: path.Join(agent.PodCgroup, warmID), CgroupV2: true, CgroupMountOptions: []string{"nsdelegate"},
		HostCapabilities: n.vm.Info.Capabilities,
		Mounts:           []specs.Mount{{Destination: "/etc/hosts", Type: "bind", Source: hosts, Options: []string{"rbind", "rprivate", "rw"}}},
	}
	s, err := spec.Build(runtime.Config{
		ID: warmID, Args: []string{programPath}, Env: []string{"PATH=/bin"}, Cwd: "/", PID: runtime.NamespaceContainer,
		Capabilities: n.caps, Seccomp: n.seccomp, MaskedPaths: []string{"/proc/kcore"}, ReadonlyPaths: []string{"/proc/sys"},
		Resources: &runtime.Resources{CPUShares: 1024, MemoryLimit: 64 << 20},
	}, place)
	if err != nil {
		return fmt.Errorf("specify container: %w", err)
	}
	filter, err := seccomp.Compile(n.seccomp)
	if err != nil {
		return fmt.Errorf("compile seccomp profile: %w", err)
	}
	s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: n.seccomp.DefaultAction}
	dir := func(name string) agent.File { return agent.File{Path: name, Mode: unix.S_IFDIR | 0o755} }
	err = n.vm.Guest.Put(ctx, []agent.File{
		dir(n.upper), dir(path.Join(n.upper, "upper")), dir(path.Join(n.upper, "work")), dir(bundle), dir(path.Join(bundle, "rootfs")),
		{Path: path.Join(bundle, seccomp.ProgramFile), Mode: unix.S_IFREG | 0o600, Content: filter.Bytes()},
		{Path: hosts, Mode: unix.S_IFREG | 0o644, Content: []byte("127.0.0.1 localhost\n")},
	})
	if err != nil {
		return fmt.Errorf("make directories: %w", err)
	}
	n.request = monitor.CreateRequest{
		ID: warmID, Sandbox: warmID, Bundle: bundle, Spec: s, Cgroup: place.CgroupsPath, LogPath: path.Join(agent.DirLogs, warmID),
		Rootfs: monitor.Overlay{
			Target: "rootfs", Lower: []string{n.lower}, Upper: path.Join(n.upper, "upper"), Work: path.Join(n.upper, "work"),
		},
	}
	if _, err := n.vm.Monitor.Create(ctx, n.request); err != nil {
		return fmt.Errorf("create container: %w", err)
	}
	return nil
}

func (n *lifetime) run(ctx context.Context) error {
	m := n.vm.Monitor
	if _, err := m.Start(ctx, warmID); err != nil {
		return fmt.Errorf("start container: %w", err)
	}
	process := *n.request.Spec.Process
	process.Args = []string{programPath, "once"}
	exit, err := m.Exec(ctx, warmID, monitor.ExecRequest{Process: process, Timeout: time.Minute}, runtime.Streams{})
	if err != nil || exit.Code != 0 {
		return fmt.Errorf("execute in container: it exited with %d: %w", exit.Code, errors.Join(errdefs.ErrInternal, err))
	}
	if _, err := n.vm.Guest.Stat(ctx); err != nil {
		return fmt.Errorf("read statistics: %w", err)
	}
	if err := m.Signal(ctx, warmID, unix.SIGKILL); err != nil {
		return fmt.Errorf("kill container: %w", err)
	}
	if _, err := m.Wait(ctx, warmID); err != nil {
		return fmt.Errorf("wait for container: %w", err)
	}
	return n.readLog(ctx)
}

// readLog expects the program's greeting: whoever hands out this machine knows that it
// runs containers.
func (n *lifetime) readLog(ctx context.Context) error {
	var log []byte
	err := n.vm.Monitor.Log(ctx, monitor.LogRequest{ID: warmID}, func(_ int64, p []byte) error {
		log = append(log, p...)
		return nil
	})
	if err != nil {
		return fmt.Errorf("read log: %w", err)
	}
	if !bytes.HasSuffix(log, []byte(" F "+greeting)) {
		return fmt.Errorf("read log: it says %.100q: %w", log, errdefs.ErrInternal)
	}
	return nil
}

func (n *lifetime) remove(ctx context.Context) error {
	if err := n.vm.Monitor.Delete(ctx, warmID); err != nil {
		return fmt.Errorf("delete container: %w", err)
	}
	err := n.vm.Guest.Remove(ctx, []string{
		n.request.Bundle, n.request.LogPath, n.upper, path.Join(agent.DirVolumes, warmID+"-hosts"),
	})
	if err != nil {
		return fmt.Errorf("remove container: %w", err)
	}
	if err := n.vm.Guest.Unmount(ctx, n.lower); err != nil {
		return fmt.Errorf("unmount image: %w", err)
	}
	if err := n.vm.Machine.ClearDisk(ctx, imageSlot); err != nil {
		return fmt.Errorf("empty slot: %w", err)
	}
	return nil
}
