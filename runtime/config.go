package runtime

import (
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Config describes a container to be made, in Linux and OCI terms and free of CRI
// types. Everything is resolved already: users are numbers, paths on the host are
// absolute, the command is final. Fields left zero are off.
type Config struct {
	// ID names the container on this node: 64 hexadecimal digits.
	ID string `json:"id"`
	// Image lists the diff ids of the image's layers, the lowest first.
	Image []digest.Digest `json:"image"`

	Args     []string `json:"args"`
	Env      []string `json:"env,omitempty"` // KEY=VALUE
	Cwd      string   `json:"cwd"`
	Terminal bool     `json:"terminal,omitempty"`
	// Stdin keeps standard input open for Attach; StdinOnce closes it when the first
	// client that brought input leaves.
	Stdin     bool `json:"stdin,omitempty"`
	StdinOnce bool `json:"stdinOnce,omitempty"`
	// LogPath is the CRI log file; empty discards output that nobody is attached to.
	LogPath string `json:"logPath,omitempty"`

	User            specs.User `json:"user"`
	Privileged      bool       `json:"privileged,omitempty"`
	NoNewPrivileges bool       `json:"noNewPrivileges,omitempty"`
	// Capabilities in OCI form (CAP_X). Those that the daemon itself lacks are left
	// out by the driver.
	Capabilities *specs.LinuxCapabilities `json:"capabilities,omitempty"`
	// Seccomp is nil for unconfined.
	Seccomp         *specs.LinuxSeccomp `json:"seccomp,omitempty"`
	ApparmorProfile string              `json:"apparmorProfile,omitempty"`
	SELinuxLabel    string              `json:"selinuxLabel,omitempty"`
	MountLabel      string              `json:"mountLabel,omitempty"`
	OOMScoreAdj     *int                `json:"oomScoreAdj,omitempty"`

	ReadonlyRootfs bool     `json:"readonlyRootfs,omitempty"`
	MaskedPaths    []string `json:"maskedPaths,omitempty"`
	ReadonlyPaths  []string `json:"readonlyPaths,omitempty"`

	Mounts    []Mount    `json:"mounts,omitempty"`
	Devices   []Device   `json:"devices,omitempty"`
	Resources *Resources `json:"resources,omitempty"`

	// PID says whose processes the container sees.
	PID NamespaceMode `json:"pid"`
	// PIDTarget is the container (of the same sandbox) joined if PID is NamespaceTarget.
	PIDTarget string `json:"pidTarget,omitempty"`

	// Annotations end up in the OCI specification.
	Annotations map[string]string `json:"annotations,omitempty"`

	// Adjust, if set, changes the finished OCI specification before the driver
	// translates it for its hull (NRI, CDI).
	Adjust func(*specs.Spec) error `json:"-"`
}

// NamespaceMode says which instance of a namespace is used.
type NamespaceMode string

// The namespace modes of the CRI. The zero value is not valid.
const (
	NamespacePod       NamespaceMode = "pod"
	NamespaceContainer NamespaceMode = "container"
	NamespaceNode      NamespaceMode = "node"
	NamespaceTarget    NamespaceMode = "target"
)

// Mount is a file or directory of the host, or an image, shown in a container.
type Mount struct {
	Destination string `json:"destination"`
	// Source is a path on the host; empty if Image is set.
	Source string `json:"source,omitempty"`
	// Image lists the layers (lowest first) of an image volume, SubPath the directory
	// in it.
	Image   []digest.Digest `json:"image,omitempty"`
	SubPath string          `json:"subPath,omitempty"`

	Readonly          bool        `json:"readonly,omitempty"`
	RecursiveReadOnly bool        `json:"recursiveReadOnly,omitempty"`
	Propagation       Propagation `json:"propagation,omitempty"`
	SELinuxRelabel    bool        `json:"selinuxRelabel,omitempty"`
	// Options are further mount options: noexec, nosuid, nodev.
	Options []string `json:"options,omitempty"`
	// UIDMappings and GIDMappings ask for an id-mapped mount.
	UIDMappings []specs.LinuxIDMapping `json:"uidMappings,omitempty"`
	GIDMappings []specs.LinuxIDMapping `json:"gidMappings,omitempty"`
}

// Propagation is the mount propagation of a Mount (mount_namespaces(7)).
type Propagation string

// The propagations that the CRI knows; the zero value is private.
const (
	PropagationPrivate         Propagation = "rprivate"
	PropagationHostToContainer Propagation = "rslave"
	PropagationBidirectional   Propagation = "rshared"
)

// Device is a device node of the host, shown in a container. A directory stands for
// all devices below it.
type Device struct {
	HostPath      string `json:"hostPath"`
	ContainerPath string `json:"containerPath"`
	// Permissions is a combination of r, w and m.
	Permissions string `json:"permissions"`
}

// Resources are limits; nil and zero fields are left as they are.
type Resources struct {
	CPUShares  uint64 `json:"cpuShares,omitempty"`
	CPUQuota   int64  `json:"cpuQuota,omitempty"`  // µs a period
	CPUPeriod  uint64 `json:"cpuPeriod,omitempty"` // µs
	CpusetCpus string `json:"cpusetCpus,omitempty"`
	CpusetMems string `json:"cpusetMems,omitempty"`

	MemoryLimit int64 `json:"memoryLimit,omitempty"` // bytes
	// MemorySwapLimit is memory and swap together, in bytes, as the OCI has it.
	MemorySwapLimit int64             `json:"memorySwapLimit,omitempty"`
	PidsLimit       int64             `json:"pidsLimit,omitempty"`
	HugepageLimits  map[string]uint64 `json:"hugepageLimits,omitempty"` // "2MB" -> bytes
	OOMScoreAdj     *int              `json:"oomScoreAdj,omitempty"`
	// Unified are cgroup v2 files and what to write into them.
	Unified map[string]string `json:"unified,omitempty"`
}
