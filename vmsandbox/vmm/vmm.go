// Package vmm is what the VM driver asks of a virtual machine monitor: QEMU is one
// (vmsandbox/qemu), others can be added behind the same two interfaces.
//
// A Machine has a fixed set of slots for disks. A slot is there from the start, as an
// empty disk, because filling a slot is ten times faster than plugging a device in.
package vmm

import (
	"context"
	"os"
	"time"
)

// Hypervisor starts machines and finds them again. It is safe for concurrent use.
type Hypervisor interface {
	// Start starts a machine, or leaves nothing behind. The machine is paused if the
	// Config has a State, and runs otherwise.
	Start(ctx context.Context, c Config) (Machine, error)
	// Attach finds a machine again after a restart of the daemon; errdefs.ErrNotFound if
	// it no longer runs.
	Attach(ctx context.Context, id string) (Machine, error)
	// List names the machines that run or have left traces.
	List(ctx context.Context) ([]string, error)
	// Remove kills a machine and removes its directory. It is idempotent, and works on
	// what List names whatever state that is in.
	Remove(ctx context.Context, id string) error
	// Version identifies the program and everything of it that a saved state depends on.
	Version(ctx context.Context) (string, error)
}

// Machine is one running virtual machine. It is safe for concurrent use.
type Machine interface {
	ID() string
	// Dir is the machine's own directory on the host.
	Dir() string
	// Pid is the process of the machine on the host.
	Pid() int
	Pause(ctx context.Context) error
	Resume(ctx context.Context) error
	// Save writes the state of the devices of a paused machine to f. The memory stays in
	// the file that the machine was started with (Memory.Shared). Afterwards the machine
	// can only be removed.
	Save(ctx context.Context, f *os.File) error
	// SetDisk puts a disk into a slot. The guest may use it at once.
	SetDisk(ctx context.Context, slot string, d Disk) error
	// ClearDisk makes a slot empty again. The guest must have let go of it.
	ClearDisk(ctx context.Context, slot string) error
	// AddMemory gives the guest so many bytes more, a multiple of 128 MiB. Beyond the most it
	// may have, or MemoryPieces calls, it is errdefs.ErrResourceExhausted.
	AddMemory(ctx context.Context, bytes int64) error
	// Socket is the path of the unix socket behind one of the machine's ports.
	Socket(port string) string
	// Done is closed when the process of the machine has ended.
	Done() <-chan struct{}
	// Close lets go of the machine without ending it.
	Close() error
}

// Witness is a Machine that can tell what the hypervisor and the guest's console said
// last, for errors and logs. The text is not the host's own: it may say anything.
type Witness interface {
	LastWords() string
}

// Snapshotter is a Machine that can be saved as a whole and goes on.
type Snapshotter interface {
	// Snapshot writes the memory and the state of the devices of a paused machine to f,
	// which a Config with Whole goes on from. What is on its disks is not in it. Resume lets
	// the machine go on, whatever came of it; one that could not go on as it was has ended.
	// added is what AddMemory has added, piece by piece (Config.Added): a machine with other
	// memory, or files mapped as such, is errdefs.ErrFailedPrecondition, since it could not
	// go on from what was written.
	Snapshot(ctx context.Context, f *os.File, added []int64) error
}

// Mapper is a Machine that can show its guest files of the host as memory, read-only:
// what the guest reads is the host's page cache, and it keeps no copy.
type Mapper interface {
	// Map plugs in files, whose sizes are multiples of MapStep. In the guest each is the
	// persistent memory device on the PCI bus of the returned number, as long as the
	// machine lives; a file that has been mapped already is where it was. Plugging in takes
	// longer than filling a slot, and there is room for few files: errdefs.ErrResourceExhausted,
	// and none of them is mapped.
	Map(ctx context.Context, paths ...string) (buses []int, err error)
}

// MapStep is the unit of mapped files, in bytes.
const MapStep = 2 << 20

// Ports of a machine: byte channels between host and guest. In the guest they are
// virtio-serial ports of the same names.
const (
	PortDaemon  = "cricket.daemon"
	PortMonitor = "cricket.monitor"
)

// Config describes a machine to be started. Two machines with the same Shape can share
// a saved state.
type Config struct {
	ID    string
	Shape Shape
	// State is the device state of the template to go on from; nil boots the kernel.
	State *os.File
	// Whole says that State holds the memory too (Snapshotter), so that Memory needs no file.
	// Added is what AddMemory had added to the machine that was saved, piece by piece.
	Whole  bool
	Added  []int64
	Memory Memory
	// Tap is an open tap device with IFF_VNET_HDR; nil leaves the NIC without a
	// back end.
	Tap *os.File
	// MAC is the NIC's hardware address; empty for the one of the shape.
	MAC string
	// Volumes is the directory that the guest can mount by 9p with the tag VolumesTag. It
	// may become a mount point, which its owner unmounts; what is mounted below later
	// reaches the guest.
	Volumes string
	// Disks are put into their slots before the machine runs.
	Disks map[string]Disk
	// Cgroup is the cgroup that the process is started in, relative to the hierarchies'
	// roots; empty for the monitor's own.
	Cgroup string
	// Deadline bounds a cold start up to the point where the machine can be talked to.
	Deadline time.Duration
}

// VolumesTag is the 9p mount tag of Config.Volumes.
const VolumesTag = "cricket.volumes"

// Shape is everything that a saved state depends on.
type Shape struct {
	Machine     string // q35
	Accelerator string // AccelKVM or AccelTCG
	CPU         string // model, empty for the accelerator's default
	VCPUs       int
	MemoryMiB   int
	// MaxMemoryMiB is how far AddMemory can go.
	MaxMemoryMiB int
	Kernel       string // path
	Initrd       string // path
	Cmdline      string // appended to what the hypervisor needs itself
}

// Accelerators.
const (
	AccelKVM = "kvm"
	AccelTCG = "tcg"
)

// Memory says where the guest's memory lives.
type Memory struct {
	// File holds the memory, MemoryMiB long; nil for anonymous memory.
	File *os.File
	// Shared writes go to the file: a template that is being made, or a copy of one that
	// belongs to this machine alone and shares no page with others. Otherwise the file is
	// copied on write and may be sealed.
	Shared bool
}

// Disk is what is in a slot.
type Disk struct {
	// Files are laid one after the other; each is a multiple of 512 bytes.
	Files    []string
	ReadOnly bool
	// Volatile says that nobody needs the content after a crash of the host: what the
	// guest flushes then need not reach the host's storage.
	Volatile bool
	// Direct reads past the host's page cache: nothing of what others have read is found
	// there, and nothing is left. Disks that are read only can have it.
	Direct bool
}

// MemoryPieces is how often memory can be added to a machine.
const MemoryPieces = 16

// Slots of disks: six read-only ones for images, six writable ones. In the guest a slot
// is a virtio block device whose serial number is the slot's name. It seems to be of the
// same size, larger than any disk, whatever is in it.
func Slots() (readOnly, writable []string) {
	return []string{"ro0", "ro1", "ro2", "ro3", "ro4", "ro5"}, []string{"rw0", "rw1", "rw2", "rw3", "rw4", "rw5"}
}
