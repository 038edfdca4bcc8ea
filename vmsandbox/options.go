package vmsandbox

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/monitor"
	"github.com/cricket-cri/cricket/sandbox"
	"github.com/cricket-cri/cricket/sandbox/cgroup"
	"github.com/cricket-cri/cricket/sandbox/cni"
	"github.com/cricket-cri/cricket/vmsandbox/agent"
	"github.com/cricket-cri/cricket/vmsandbox/seccomp"
	"github.com/cricket-cri/cricket/vmsandbox/vmm"
)

// Machines hands out machines and finds them again (vmsandbox/template).
type Machines interface {
	// Claim returns a machine that runs and has not been told who it is.
	Claim(ctx context.Context) (*Machine, error)
	// Platform is what machines depend on that are saved or go on from now on.
	Platform(ctx context.Context) (Platform, error)
	// Restore returns a machine that goes on from what was saved, and runs.
	Restore(ctx context.Context, s SavedMachine) (*Machine, error)
	// Attach finds a claimed machine after a restart of the daemon; errdefs.ErrNotFound if
	// it no longer runs.
	Attach(ctx context.Context, id string) (*Machine, error)
	// Remove kills a machine and removes all it has on the host. It is idempotent.
	Remove(ctx context.Context, id string) error
}

// Machine is a machine that was claimed, with the channels into its guest.
type Machine struct {
	vmm.Machine
	Guest   agent.Guest
	Monitor GuestMonitor
	// Open opens a stream to a service of the guest, for whoever connects to the pod: there
	// may be any number, which must not keep calls from the guest.
	Open func(ctx context.Context, service string) (net.Conn, error)
	// Ping asks the guest for a sign of life and waits for it.
	Ping func(ctx context.Context) error
	// Lost is closed when the channel to the guest has ended; Why says for what reason.
	Lost <-chan struct{}
	Why  func() error
	// NetNS is where the machine's network namespace is pinned, Volumes the directory that
	// the guest sees as vmm.VolumesTag.
	NetNS, Volumes string
	// Mounted are the slots of writable disks that the guest has mounted already.
	Mounted []string
	// Rootfs is how a machine that was claimed is to read images; empty for RootfsDisk.
	Rootfs Rootfs
	// Platform is what a machine depends on that was claimed or restored.
	Platform Platform
	// Release lets go of the machine without ending it.
	Release func() error
}

// SavedMachine is what a machine goes on from.
type SavedMachine struct {
	// State is memory and devices, Added what memory the machine was given, piece by piece.
	State *os.File
	Added []int64
	// Disks makes the disks of the machine that is made, by slot.
	Disks func(ctx context.Context, machine string) (map[string]vmm.Disk, error)
}

// Platform is what a machine depends on that goes on from a saved state: all of it is to be
// what it was.
type Platform struct {
	// Hypervisor names the program with its version and devices.
	Hypervisor   string `json:"hypervisor"`
	Machine      string `json:"machine"`
	Accelerator  string `json:"accelerator"`
	CPU          string `json:"cpu"` // model, features and clock rate
	VCPUs        int    `json:"vcpus"`
	MemoryMiB    int    `json:"memoryMiB"`
	MaxMemoryMiB int    `json:"maxMemoryMiB"`
	// DiskBytes is how large writable disks seem to be.
	DiskBytes int64 `json:"diskBytes"`
	// Kernel and Initrd are what the guest runs, and Agent the version of its calls.
	Kernel digest.Digest `json:"kernel"`
	Initrd digest.Digest `json:"initrd"`
	Agent  int           `json:"agent"`
}

// GuestMonitor supervises the containers in a guest (runtime/monitor.Client).
type GuestMonitor interface {
	Create(ctx context.Context, r monitor.CreateRequest) (monitor.Created, error)
	Start(ctx context.Context, id string) (time.Time, error)
	Signal(ctx context.Context, id string, sig unix.Signal) error
	State(ctx context.Context, id string) (runtime.State, error)
	Wait(ctx context.Context, id string) (runtime.Exit, error)
	Exec(ctx context.Context, id string, r monitor.ExecRequest, s runtime.Streams) (runtime.Exit, error)
	Attach(ctx context.Context, id string, s runtime.Streams) error
	Update(ctx context.Context, id string, r *specs.LinuxResources) error
	Delete(ctx context.Context, id string) error
	Hold(ctx context.Context, r monitor.HoldRequest) (pid int, err error)
}

// Mirrors copy containers' logs from guests to the host, in the host's supervisor
// (runtime/monitor.Client).
type Mirrors interface {
	Mirror(ctx context.Context, m Mirror) error
	// Flush returns when everything that the container wrote is in the log.
	Flush(ctx context.Context, id string) error
	ReopenLog(ctx context.Context, id string) error
	// Delete ends a mirror. It is idempotent.
	Delete(ctx context.Context, id string) error
}

// Mirror is a container's log on its way to the host.
type Mirror struct {
	ID, Sandbox string
	// Name is what the guest calls the container, From where in its log to begin, in bytes.
	Name string
	From int64
	// Socket is the machine's port for the host's supervisor, LogPath the CRI log.
	Socket, LogPath string
}

// Layers knows the files of images' layers (runtime/layer.Store).
type Layers interface {
	// Flat returns files that, laid one after the other, are one file system with all
	// layers of a chain.
	Flat(ctx context.Context, chain []digest.Digest) (files []string, err error)
	// Digest identifies the content of such a file.
	Digest(ctx context.Context, file string) (digest.Digest, error)
}

// Disks are empty file systems (vmsandbox/disk.Store).
type Disks interface {
	// Take makes one for a machine and returns its path.
	Take(ctx context.Context, machine, name string) (path string, err error)
	// Path is where one lies that was taken.
	Path(machine, name string) (string, error)
	// Remove removes those of a machine, all if none is named. It is idempotent.
	Remove(machine string, names ...string) error
	// Save writes what one is now, Load makes one of that and returns its path.
	Save(ctx context.Context, machine, name string, w io.Writer) error
	Load(ctx context.Context, machine, name string, r io.Reader) (path string, err error)
}

// Volumes are what one pod's containers see of the host (vmsandbox/volume.Set).
type Volumes interface {
	// Add shows a mount's source in the guest and returns the mount to make there.
	Add(ctx context.Context, container string, m runtime.Mount) (runtime.Mount, error)
	// Flush copies back what the container wrote into single files.
	Flush(ctx context.Context, container string) error
	RemoveContainer(ctx context.Context, container string) error
	// State describes the volumes for the next daemon.
	State() (json.RawMessage, error)
	// Savable is errdefs.ErrFailedPrecondition, with the name of a volume, if the machine
	// cannot be saved because of it.
	Savable() error
	// Release leaves everything to the next daemon, Close removes it.
	Release() error
	Close() error
}

// VolumeOptions are what the volumes of a pod are made of.
type VolumeOptions struct {
	// Guest is nil if the machine is gone and what was left is to be closed.
	Guest agent.Guest
	// Dir is Machine.Volumes.
	Dir string
	// Disk is where the guest has room for the nth directory of the pod's own, beginning
	// with 0, and the host's file in which nothing else is kept, "" if there is none.
	Disk func(ctx context.Context, nth int) (dir, file string, err error)
	// State is that of an earlier daemon, or nil.
	State json.RawMessage
	// Moved, if set, are the containers of a checkpoint, which State is of then.
	Moved []MovedVolumes
	// Changed is called when State has changed without a call of a method.
	Changed func()
}

// MovedVolumes are what a restored container mounts now.
type MovedVolumes struct {
	From, ID string // what the checkpoint called it, and what it is called
	Mounts   []runtime.Mount
}

// Network connects pods (sandbox/cni.Network).
type Network interface {
	Add(ctx context.Context, p cni.Pod) ([]netip.Addr, error)
	Del(ctx context.Context, id string) error
}

// Options are what the driver is made of.
type Options struct {
	// State does not survive reboots and holds everything that describes what runs.
	State string

	Machines Machines
	Mirrors  Mirrors
	Layers   Layers
	Disks    Disks
	Volumes  func(VolumeOptions) (Volumes, error)
	Network  Network
	// SystemdCgroup lets systemd keep the cgroups of the host.
	SystemdCgroup bool
	// MaxMemoryMiB is how large a machine can grow.
	MaxMemoryMiB int
	// MaxLogLine is in bytes; 0 leaves it to the monitor.
	MaxLogLine int
	Rlimits    []specs.POSIXRlimit
	Log        *slog.Logger

	// cross connects the machine's tap with the pod's interface; tests have no interfaces.
	cross func(path, name string) (agent.Network, error)
}

// Driver is the driver of sandboxes that are virtual machines. It implements
// sandbox.Driver.
type Driver struct {
	opts   Options
	cgroup *cgroup.Tree
	naming cgroup.Naming
	boot   string
	// filters are the seccomp profiles that were compiled last.
	filters seccomp.Cache

	mu    sync.Mutex
	live  map[string]*pod // those that have a machine, by id
	tries map[string]int  // attempts to attach that failed
}

// NewDriver makes the driver and the directories that it needs.
func NewDriver(o Options) (*Driver, error) {
	tree, err := cgroup.Open()
	if err != nil {
		return nil, err
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, fmt.Errorf("read boot id: %w", err)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.cross == nil {
		o.cross = crossNetwork
	}
	d := &Driver{opts: o, cgroup: tree, naming: cgroup.Naming(o.SystemdCgroup), boot: strings.TrimSpace(string(boot)), live: map[string]*pod{}, tries: map[string]int{}}
	if err := os.MkdirAll(d.podDir(""), 0o700); err != nil {
		return nil, fmt.Errorf("make directory of virtual pods: %w", err)
	}
	return d, nil
}

// Features are the guest kernel's.
func (d *Driver) Features() sandbox.Features {
	return sandbox.Features{RecursiveReadOnlyMounts: true, UserNamespaces: true, OwnKernel: true, CgroupV2: true}
}

// podDir describes the pod with that id.
func (d *Driver) podDir(id string, elem ...string) string {
	return filepath.Join(append([]string{d.opts.State, "vm", "pods", id}, elem...)...)
}
