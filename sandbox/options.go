package sandbox

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/checkpoint"
	"github.com/cricket-cri/cricket/runtime/monitor"
	"github.com/cricket-cri/cricket/runtime/oci"
	"github.com/cricket-cri/cricket/runtime/spec"
	"github.com/cricket-cri/cricket/sandbox/cgroup"
	"github.com/cricket-cri/cricket/sandbox/cni"
	"github.com/cricket-cri/cricket/sandbox/quota"
)

// Monitor supervises processes (runtime/monitor.Client).
type Monitor interface {
	Create(ctx context.Context, r monitor.CreateRequest) (monitor.Created, error)
	Start(ctx context.Context, id string) (time.Time, error)
	Signal(ctx context.Context, id string, sig unix.Signal) error
	State(ctx context.Context, id string) (runtime.State, error)
	Wait(ctx context.Context, id string) (runtime.Exit, error)
	Exec(ctx context.Context, id string, r monitor.ExecRequest, s runtime.Streams) (runtime.Exit, error)
	Attach(ctx context.Context, id string, s runtime.Streams) error
	ReopenLog(ctx context.Context, id string) error
	Update(ctx context.Context, id string, r *specs.LinuxResources) error
	Checkpoint(ctx context.Context, id string, r monitor.CheckpointRequest, while func(context.Context) error) error
	Delete(ctx context.Context, id string) error
	List(ctx context.Context) ([]monitor.Entry, error)
	Hold(ctx context.Context, r monitor.HoldRequest) (pid int, err error)
	Release(ctx context.Context, id string) error
}

// Layers shows the layers of images as directories (runtime/layer.Store).
type Layers interface {
	Mount(ctx context.Context, chain []digest.Digest) (dirs []string, err error)
}

// Network connects pods (sandbox/cni.Network).
type Network interface {
	Add(ctx context.Context, p cni.Pod) ([]netip.Addr, error)
	Del(ctx context.Context, id string) error
	List() ([]string, error)
}

// Options are what the shared-kernel driver is made of.
type Options struct {
	// Root survives reboots and holds the writable layers; State does not, and holds
	// everything that describes what runs.
	Root, State string

	Monitor Monitor
	Layers  Layers
	Network Network
	Runtime oci.Runtime
	// SystemdCgroup lets systemd keep the cgroups.
	SystemdCgroup bool
	// MaxLogLine is in bytes; 0 leaves it to the monitor.
	MaxLogLine int
	// Quota bounds the writable layers, the directories in Root/containers (LayerRoot); nil
	// for none. Drivers that share Root share it.
	Quota *quota.Projects
	// Rlimits are given to every container; empty leaves those of the monitor.
	Rlimits []specs.POSIXRlimit
	// CRIU makes checkpoints of containers; nil refuses them.
	CRIU *checkpoint.CRIU
	Log  *slog.Logger
}

// Kernel is the driver of sandboxes that are namespaces and cgroups of this kernel. It
// implements Driver.
type Kernel struct {
	opts   Options
	cgroup *cgroup.Tree
	naming cgroup.Naming
	// What containers can get is what this process has itself; it does not change.
	capabilities       []string
	oomScoreAdj        int
	cgroupMountOptions []string
	boot               string
	features           Features
}

// NewDriver makes the driver of one OCI runtime and the directories that it needs.
// Several drivers may share Root and State, if all are made before one is used.
func NewDriver(o Options) (*Kernel, error) {
	tree, err := cgroup.Open()
	if err != nil {
		return nil, err
	}
	k := &Kernel{opts: o, cgroup: tree, naming: cgroup.Naming(o.SystemdCgroup), cgroupMountOptions: tree.MountOptions()}
	if err := k.readFacts(); err != nil {
		return nil, err
	}
	if err := k.makeRoots(); err != nil {
		return nil, err
	}
	if err := k.removeHalfLayers(); err != nil {
		return nil, err
	}
	k.features = Features{
		RecursiveReadOnlyMounts: unix.MountSetattr(-1, "", 0, &unix.MountAttr{}) != unix.ENOSYS,
		UserNamespaces:          unix.Access("/proc/self/ns/user", unix.F_OK) == nil,
		CgroupV2:                k.cgroup.Unified(),
	}
	return k, nil
}

// makeRoots makes the directories that hold those of pods and containers.
func (k *Kernel) makeRoots() error {
	for _, dir := range []string{k.path("sandboxes"), k.path("containers"), k.path("ns")} {
		// Root of a user namespace has to get through to what is mounted from below.
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return fmt.Errorf("make directories of sandboxes: %w", err)
		}
	}
	if _, err := LayerRoot(k.opts.Root); err != nil {
		return err
	}
	return isolate(k.path("containers"))
}

// LayerRoot is the directory that the writable layers lie in, of a driver with that Root.
// It is made if missing. Nobody but root may come near it: containers can leave programs
// there that are set-uid to the host's root.
func LayerRoot(root string) (string, error) {
	dir := filepath.Join(root, "containers")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make directory of writable layers: %w", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return "", fmt.Errorf("protect writable layers: %w", err)
	}
	return dir, nil
}

// readFacts reads what does not change while this process runs.
func (k *Kernel) readFacts() (err error) {
	if k.capabilities, err = spec.ReadCapabilities(); err != nil {
		return err
	}
	score, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return fmt.Errorf("read own OOM score: %w", err)
	}
	if k.oomScoreAdj, err = strconv.Atoi(strings.TrimSpace(string(score))); err != nil {
		return fmt.Errorf("read own OOM score: %w", err)
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return fmt.Errorf("read boot id: %w", err)
	}
	k.boot = strings.TrimSpace(string(boot))
	return nil
}

// Features says what pods of this driver can have.
func (k *Kernel) Features() Features { return k.features }

// path is a path below the state directory.
func (k *Kernel) path(elem ...string) string {
	return filepath.Join(append([]string{k.opts.State}, elem...)...)
}

// bundle is the OCI bundle of a container.
func (k *Kernel) bundle(id string) string { return k.path("containers", id) }

// layerDir holds the writable layer of a container.
func (k *Kernel) layerDir(id string) string { return filepath.Join(k.opts.Root, "containers", id) }
