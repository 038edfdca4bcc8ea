package guest

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime/cgroupstat"
	"github.com/cricket-cri/cricket/runtime/spec"
	"github.com/cricket-cri/cricket/vmsandbox/agent"
)

// Guest does for the host what is not about single containers. It is safe for concurrent
// use.
type Guest struct {
	log *slog.Logger
	// devices are listed once: what is plugged in later belongs to the host's volumes.
	devices []specs.LinuxDevice
	meter   *cgroupstat.Meter
	// freezing is held while containers are frozen or thawed: the last call counts.
	freezing sync.Mutex
	gate     *gate

	mu     sync.Mutex
	slots  map[string]string // writable disks: slot to mount point
	first  int64             // memory that was on at first, in whole blocks, bytes
	memory uint64            // total when it was last looked at, bytes
	wanted uint64            // the pod's limit of memory as the host has it; 0 is none
}

// version of what Guest does, for Info.
const version = 1

// New is a Guest for a machine that has been prepared.
func New(log *slog.Logger) (*Guest, error) {
	total, err := memoryTotal()
	if err != nil {
		return nil, err
	}
	first, err := blockBytes()
	if err != nil {
		return nil, err
	}
	all, err := spec.ReadDevices("/dev")
	if err != nil {
		return nil, err
	}
	return &Guest{log: log, devices: slices.DeleteFunc(all, ours), slots: make(map[string]string), first: first, memory: total, meter: cgroupstat.New(), gate: &gate{}}, nil
}

// ours are devices that are no business of any container: the channels to the host.
func ours(d specs.LinuxDevice) bool {
	return strings.HasPrefix(d.Path, "/dev/vport") || strings.HasPrefix(d.Path, "/dev/virtio-ports/") || strings.HasPrefix(d.Path, "/dev/hvc")
}

// Hello implements agent.Guest.
func (g *Guest) Hello(context.Context) (agent.Info, error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return agent.Info{}, fmt.Errorf("read release: %w: %w", errdefs.ErrInternal, err)
	}
	capabilities, err := spec.ReadCapabilities()
	if err != nil {
		return agent.Info{}, err
	}
	kinds, err := fileSystemKinds()
	if err != nil {
		return agent.Info{}, err
	}
	total, err := memoryTotal()
	if err != nil {
		return agent.Info{}, err
	}
	return agent.Info{
		Version: version, Kernel: unix.ByteSliceToString(name.Release[:]), Devices: g.devices, Capabilities: capabilities,
		FileSystems: kinds, MemoryBytes: total, CPUs: runtime.NumCPU(),
		MachineID: machineID(), UnixNanos: time.Now().UnixNano(),
	}, nil
}

func fileSystemKinds() ([]string, error) {
	text, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		return nil, fmt.Errorf("list file systems: %w: %w", errdefs.ErrInternal, err)
	}
	var out []string
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line) // "nodev tmpfs" or "ext4"
		if len(words) > 0 {
			out = append(out, words[len(words)-1])
		}
	}
	return out, nil
}
