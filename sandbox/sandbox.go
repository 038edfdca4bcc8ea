package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cricket-cri/cricket/runtime"
)

// ErrGone says that a recorded sandbox no longer exists on this machine.
var ErrGone = errors.New("sandbox is gone")

// Driver makes sandboxes of one kind; there is one for each runtime handler. All
// methods are safe for concurrent use.
type Driver interface {
	// Features says what pods of this handler can have.
	Features() Features
	// Create makes a sandbox that is networked and ready, or leaves nothing behind.
	Create(ctx context.Context, c Config) (Sandbox, error)
	// Attach finds a sandbox again after a restart of the daemon. ErrGone: it no
	// longer exists, but Remove on the sandbox that is returned beside the error still
	// cleans up what is left.
	Attach(ctx context.Context, r Record) (Sandbox, error)
	// List names every sandbox that this driver finds traces of on the machine,
	// recorded or not: what reconciliation compares the records with.
	List(ctx context.Context) ([]string, error)
	// Sweep removes the traces of a sandbox that no record knows.
	Sweep(ctx context.Context, id string) error
	// Containers is List for containers: by the id of each, the id of its sandbox.
	Containers(ctx context.Context) (map[string]string, error)
	// SweepContainer removes the traces of a container that no record knows from a
	// sandbox that goes on.
	SweepContainer(ctx context.Context, sandbox, id string) error
}

// Features are the abilities of a handler that the CRI asks about.
type Features struct {
	RecursiveReadOnlyMounts bool
	UserNamespaces          bool
	// OwnKernel: containers run on a kernel of their own, with cgroup v2 and every
	// capability; the host's security modules do not reach them.
	OwnKernel bool
	// CgroupV2: containers are in cgroups of version 2, which have figures that those of
	// version 1 have not.
	CgroupV2 bool
}

// Sandbox is a live place where containers run. All methods are safe for concurrent
// use.
type Sandbox interface {
	// Record is what Attach needs to find the sandbox again.
	Record() Record
	Status() Status
	// NewContainer makes a container that is created and not yet started, or leaves
	// nothing behind.
	NewContainer(ctx context.Context, c runtime.Config) (runtime.Container, error)
	// Container re-adopts a container after a restart of the daemon. If nothing of it
	// is left the error wraps errdefs.ErrNotFound.
	Container(ctx context.Context, id string) (runtime.Container, error)
	// Dial connects to a TCP port on the loopback interface of the sandbox.
	Dial(ctx context.Context, port int) (net.Conn, error)
	// Update changes the limits of the sandbox as a whole: those of its containers
	// together, of its overhead, or both. nil leaves what there is.
	Update(ctx context.Context, r, overhead *runtime.Resources) error
	// Stat fills s with the figures of the whole sandbox, its own overhead included.
	Stat(ctx context.Context, s *Stat) error
	// Stop ends everything that runs in the sandbox and gives its network back: its IP
	// addresses are free when Stop returns. It is idempotent.
	Stop(ctx context.Context) error
	// Remove deletes what is left after Stop. It is idempotent.
	Remove(ctx context.Context) error
	// Done is closed when the sandbox is no longer ready.
	Done() <-chan struct{}
}

// Checkpointer is a Sandbox that can be saved while it runs, with all that runs in it.
type Checkpointer interface {
	// Checkpoint writes into an existing directory what Restore needs, in files of its own
	// whose names begin with CheckpointPrefix, or leaves nothing there. The containers are
	// those that are to be restored; all of them stand still from before the first is saved until
	// the last has been, and go on before it returns, whatever it returns. What cannot be
	// saved is errdefs.ErrFailedPrecondition with the reason.
	Checkpoint(ctx context.Context, dir string, containers []string) error
}

// CheckpointPrefix begins the names of a driver's files in a checkpoint.
const CheckpointPrefix = "machine"

// Restorer is a Driver that makes sandboxes of checkpoints.
type Restorer interface {
	// Restore is Create for a sandbox that goes on from a checkpoint, with containers that
	// have not run since and do not run before they are started. The directory is not
	// written to, and its content need not be what Checkpoint wrote. What does not fit here is
	// errdefs.ErrFailedPrecondition, what is damaged errdefs.ErrDataLoss.
	Restore(ctx context.Context, r Restoration) (Sandbox, error)
}

// Restoration says what is to become of a checkpoint.
type Restoration struct {
	Dir    string
	Config Config
	// Containers are all that the checkpoint has.
	Containers []RestoredContainer
}

// RestoredContainer is one of a checkpoint's containers.
type RestoredContainer struct {
	// From is its id in the checkpoint. Of Config count ID, LogPath, Resources, and the
	// sources of Mounts: the rest is as the checkpoint has it.
	From   string
	Config runtime.Config
}

// Record is a sandbox on disk. Data belongs to the driver.
type Record struct {
	ID   string          `json:"id"`
	Data json.RawMessage `json:"data"`
}

// Status is what a sandbox says of itself.
type Status struct {
	Ready bool
	// IPs are the pod's addresses, the primary one first; none on the host's network.
	IPs []netip.Addr
	// NetNS is the path of the network namespace, empty on the host's network.
	NetNS string
	// CgroupPath is the cgroup of the whole pod, relative to the hierarchy's root.
	CgroupPath string
}

// Stat holds the figures of a sandbox.
type Stat struct {
	runtime.Stat
	Network []runtime.NetworkStat
}

// Config describes a sandbox to be made, free of CRI types.
type Config struct {
	// ID names the sandbox on this node: 64 hexadecimal digits.
	ID string `json:"id"`
	// Name, Namespace, UID and Attempt identify the pod in Kubernetes.
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
	UID       string `json:"uid"`
	Attempt   uint32 `json:"attempt"`

	Hostname    string            `json:"hostname,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`

	// Network is NamespacePod or NamespaceNode; PID and IPC likewise, PID also
	// NamespaceContainer.
	Network runtime.NamespaceMode `json:"network"`
	PID     runtime.NamespaceMode `json:"pid"`
	IPC     runtime.NamespaceMode `json:"ipc"`
	// UserNS is nil unless the pod has a user namespace of its own.
	UserNS *IDMappings `json:"userns,omitempty"`

	// DNS is nil to take the host's resolver configuration.
	DNS          *DNS              `json:"dns,omitempty"`
	PortMappings []PortMapping     `json:"portMappings,omitempty"`
	Sysctls      map[string]string `json:"sysctls,omitempty"`

	// CgroupParent is the cgroup under which the pod's containers are made. Empty: the
	// driver makes one of its own and removes it with the sandbox.
	CgroupParent string             `json:"cgroupParent,omitempty"`
	Resources    *runtime.Resources `json:"resources,omitempty"`
	Overhead     *runtime.Resources `json:"overhead,omitempty"`

	SELinuxLabel string `json:"selinuxLabel,omitempty"`
	MountLabel   string `json:"mountLabel,omitempty"`
	Privileged   bool   `json:"privileged,omitempty"`

	CreatedAt time.Time `json:"createdAt"`
}

// IDMappings map the ids of a user namespace to the host's.
type IDMappings struct {
	UIDs []specs.LinuxIDMapping `json:"uids"`
	GIDs []specs.LinuxIDMapping `json:"gids"`
}

// DNS is the content of a resolv.conf(5).
type DNS struct {
	Servers  []string `json:"servers,omitempty"`
	Searches []string `json:"searches,omitempty"`
	Options  []string `json:"options,omitempty"`
}

// PortMapping shows a port of the pod on the host.
type PortMapping struct {
	Protocol      string `json:"protocol"` // tcp, udp, sctp
	ContainerPort int32  `json:"containerPort"`
	HostPort      int32  `json:"hostPort"`
	HostIP        string `json:"hostIP,omitempty"`
}
