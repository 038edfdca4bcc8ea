package agent

import (
	"context"
	"net/netip"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cricket-cri/cricket/runtime"
)

// Guest is what the process 1 of a guest does for the host, apart from running
// containers, which is the monitor's protocol. Client is the host's side of it; in the
// guest an implementation is handed to Serve.
type Guest interface {
	// Hello says who answers.
	Hello(ctx context.Context) (Info, error)
	// Identify makes a clone a machine of its own: clock, entropy, names. It comes first
	// after a clone has been resumed.
	Identify(ctx context.Context, id Identity) error
	// Step moves the guest's clock and answers what it says then, in nanoseconds since 1970.
	// How long the call is on its way makes no difference to the step, as it does to a time.
	Step(ctx context.Context, by time.Duration) (int64, error)
	// Connect configures the network interface.
	Connect(ctx context.Context, n Network) error
	// Sysctl writes kernel parameters, by names with dots.
	Sysctl(ctx context.Context, values map[string]string) error
	// Mount mounts a file system; the target is made.
	Mount(ctx context.Context, m Mount) error
	// Unmount unmounts and removes a target. It is idempotent.
	Unmount(ctx context.Context, target string) error
	// Put writes files, directories and symbolic links in the order given.
	Put(ctx context.Context, files []File) error
	// Get reads a file of at most 1 MiB; errdefs.ErrNotFound if there is none.
	Get(ctx context.Context, path string) (File, error)
	// Remove removes trees below the directories that belong to containers and volumes.
	Remove(ctx context.Context, paths []string) error
	// Stat gives the figures of the whole guest and of every container.
	Stat(ctx context.Context) (Stat, error)
	// Processes counts what the processes of every container have open.
	Processes(ctx context.Context) (map[string]runtime.ProcessStat, error)
	// Limit changes the limits of the cgroup that holds all containers.
	Limit(ctx context.Context, r *specs.LinuxResources) error
	// Online takes into use memory that was added, so many bytes since the machine's first
	// boot. It is errdefs.ErrUnavailable if the kernel has not been told of all of it in time.
	Online(ctx context.Context, added int64) error
	// Sync writes everything to the disks, and drops caches if asked to.
	Sync(ctx context.Context, drop bool) error
	// Freeze stops all processes of containers and returns when they stand still, with the
	// length of each container's log in bytes; none is frozen if there is an error. Thaw lets
	// them go on. Both are idempotent.
	Freeze(ctx context.Context, containers []string) (logs map[string]int64, err error)
	Thaw(ctx context.Context, containers []string) error
}

// Services that a stream can ask for. TCP is followed by the port number: "tcp/8080".
const (
	ServiceGuest   = "guest"   // calls of Guest
	ServiceMonitor = "monitor" // runtime/monitor's protocol
	ServiceTCP     = "tcp/"    // a connection to a port on the guest's loopback
)

// WordMapped is a word of the guest kernel's command line: files will be mapped.
const WordMapped = "cricket.mapped"

// Directories in the guest.
const (
	DirDisks      = "/cricket/disks"      // DirDisks/<slot>: a mounted disk
	DirContainers = "/cricket/containers" // DirContainers/<id>: the bundle
	DirVolumes    = "/cricket/volumes"    // DirVolumes/<name>: tmpfs volumes, mirrored volumes
	DirShared     = "/cricket/shared"     // the host's volumes by 9p
	DirLogs       = "/cricket/logs"       // DirLogs/<id>: CRI log lines on their way out
	PodCgroup     = "/pod"                // parent of the containers' cgroups
)

// Info is what a guest says of itself.
type Info struct {
	Version int    `json:"version"`
	Kernel  string `json:"kernel"` // uname -r
	// Devices are the device nodes of the guest, for privileged containers.
	Devices []specs.LinuxDevice `json:"devices,omitempty"`
	// Capabilities (CAP_X) that containers can have.
	Capabilities []string `json:"capabilities"`
	// FileSystems that the guest can mount (/proc/filesystems, modules loaded).
	FileSystems []string `json:"fileSystems"`
	MemoryBytes uint64   `json:"memoryBytes"`
	CPUs        int      `json:"cpus"`
	// MachineID is what Identify said last; UnixNanos the guest's clock as it answered.
	MachineID string `json:"machineID,omitempty"`
	UnixNanos int64  `json:"unixNanos,omitempty"`
}

// Identity is what distinguishes a clone from its template.
type Identity struct {
	UnixNanos int64  `json:"unixNanos"` // the host's clock, when the call was sent
	Entropy   []byte `json:"entropy"`   // at least 32 bytes
	MachineID string `json:"machineID"` // 32 hexadecimal digits
	Hostname  string `json:"hostname"`
}

// Network is what CNI gave the pod, for the guest's one interface.
type Network struct {
	Name      string         `json:"name"` // eth0
	MAC       string         `json:"mac"`  // taken over by the guest's interface
	MTU       int            `json:"mtu"`
	Addresses []netip.Prefix `json:"addresses"`
	Routes    []Route        `json:"routes"`
	// Neighbours are entries that the host's interface had for good.
	Neighbours []Neighbour `json:"neighbours,omitempty"`
}

// Route is one entry of the routing table.
type Route struct {
	Destination netip.Prefix `json:"destination"` // 0.0.0.0/0 or ::/0 for the default route
	Gateway     netip.Addr   `json:"gateway"`     // invalid for a link route
	Source      netip.Addr   `json:"source"`
	Metric      int          `json:"metric,omitempty"`
	OnLink      bool         `json:"onLink,omitempty"`
	MTU         int          `json:"mtu,omitempty"`
}

// Neighbour is a permanent entry of the neighbour table.
type Neighbour struct {
	IP  netip.Addr `json:"ip"`
	MAC string     `json:"mac"`
}

// Mount is a file system to be mounted in the guest's own mount namespace.
type Mount struct {
	// Slot names the disk with that serial number, Memory the mapped files of an erofs by
	// their PCI buses, the one with the metadata first. Without both Source is taken as it is.
	Slot   string `json:"slot,omitempty"`
	Memory []int  `json:"memory,omitempty"`
	Source string `json:"source,omitempty"`
	Target string `json:"target"` // absolute, below one of the directories
	Type   string `json:"type"`   // erofs, ext4, tmpfs, 9p
	// Options are those of mount(8): ro, nosuid, nodev, noexec and data.
	Options []string `json:"options,omitempty"`
}

// File is one file, directory or symbolic link.
type File struct {
	Path string `json:"path"` // absolute, below one of the directories
	Mode uint32 `json:"mode"` // st_mode: type and permissions
	UID  uint32 `json:"uid"`
	GID  uint32 `json:"gid"`
	// Content of a regular file, target of a symbolic link.
	Content []byte `json:"content,omitempty"`
	// Replace makes the new file beside and renames it over what is there (atomic);
	// without it an existing regular file is rewritten in place, since it may be
	// bind-mounted.
	Replace bool `json:"replace,omitempty"`
}

// Stat holds the figures of a guest.
type Stat struct {
	Guest      runtime.Stat            `json:"guest"` // everything, kernel included
	Pod        runtime.Stat            `json:"pod"`   // the cgroup of all containers
	Containers map[string]runtime.Stat `json:"containers"`
	Network    []runtime.NetworkStat   `json:"network"`
	// Disks are the mounted writable disks by slot.
	Disks map[string]runtime.DiskUsage `json:"disks"`
}
