package vmsandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/semaphore"

	"github.com/cricket-cri/cricket/sandbox"
	"github.com/cricket-cri/cricket/vmsandbox/agent"
)

// callBudget bounds a call to a guest that has little to do; longBudget one that waits for
// disks or starts programs, and is what the kubelet gives a call. Emulated machines on a
// loaded host, or in a pod that may use a twentieth of a processor, are slow.
const (
	callBudget = 10 * time.Second
	longBudget = 2 * time.Minute
)

// pod is a sandbox that is a virtual machine.
type pod struct {
	driver *Driver
	id     string
	// machine and volumes are nil if there is no machine (any more) to be found.
	machine *Machine
	volumes Volumes
	done    chan struct{}
	// watching owns the goroutine that watches the machine.
	watching sync.WaitGroup
	figures  figures

	// disks is held while slots change or the machine grows, which may take a while, and while
	// it is saved, which may take minutes; see holdDisks.
	disks *semaphore.Weighted
	// still is held while the machine is paused, by whoever pauses it, or by whoever takes
	// silence for death.
	still *semaphore.Weighted

	// keeping is held by whoever records the volumes: of two records the later is of the
	// later state.
	keeping sync.Mutex

	mu       sync.Mutex
	state    podState
	stopped  bool
	failure  error // why the pod ended, nil while it has not
	failedAt time.Time
}

// podState is what lies in the record and in the pod's directory.
type podState struct {
	Config sandbox.Config `json:"config"`
	// Boot is the host's boot that the pod was made in.
	Boot string `json:"boot"`
	// Machine is empty until one has been claimed. Dir, VolumesDir and NetNS are its.
	Machine    string       `json:"machine,omitempty"`
	Dir        string       `json:"dir,omitempty"`
	VolumesDir string       `json:"volumesDir,omitempty"`
	NetNS      string       `json:"netns,omitempty"`
	IPs        []netip.Addr `json:"ips,omitempty"`
	// Guest is what the guest said of itself in the beginning.
	Guest agent.Info `json:"guest"`
	// Holder is the guest's process that keeps the pod's namespaces, 0 if none does.
	Holder int `json:"holder,omitempty"`
	// Added are bytes of memory that the machine got since, Pieces those of each time.
	Added  int64   `json:"added,omitempty"`
	Pieces []int64 `json:"pieces,omitempty"`
	// Offline says that the guest may not have taken all of it into use.
	Offline bool `json:"offline,omitempty"`
	// Rootfs is how the machine reads images, for as long as it lives.
	Rootfs Rootfs `json:"rootfs,omitempty"`
	// Images says what is in the slots for images, Mapped which images are mapped,
	// Writable which other slots are mounted.
	Images   map[string]string      `json:"images,omitempty"`
	Mapped   map[string]mappedImage `json:"mapped,omitempty"`
	Writable []string               `json:"writable,omitempty"`
	// Chains are the layers of what was ever in a slot for images, by key.
	Chains map[string][]digest.Digest `json:"chains,omitempty"`
	// Platform is what the machine depends on, empty if an earlier version made it.
	Platform Platform `json:"platform,omitzero"`
	// Frozen are containers, by their names in the guest, that stand still while the machine
	// is saved.
	Frozen []string `json:"frozen,omitempty"`
	// Volumes is Volumes.State.
	Volumes json.RawMessage `json:"volumes,omitempty"`
}

// The names in a pod's directory.
const (
	stateFile     = "state.json"
	containersDir = "containers"
)

func (d *Driver) newPod(s podState) *pod {
	return &pod{
		driver: d, id: s.Config.ID, state: s, done: make(chan struct{}),
		disks: semaphore.NewWeighted(1), still: semaphore.NewWeighted(1),
	}
}

func (p *pod) dir(elem ...string) string { return p.driver.podDir(p.id, elem...) }

// config never changes.
func (p *pod) config() *sandbox.Config { return &p.state.Config }

// Record is what Attach needs to find the sandbox again.
func (p *pod) Record() sandbox.Record {
	p.mu.Lock()
	defer p.mu.Unlock()
	data, err := json.Marshal(p.state)
	if err != nil { // it holds nothing that cannot be encoded
		data = nil
	}
	return sandbox.Record{ID: p.id, Data: data}
}

// change changes the state and writes it.
func (p *pod) change(f func(*podState)) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	f(&p.state)
	return writeJSON(p.dir(stateFile), p.state)
}

func (p *pod) snapshot() podState {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state
}

// writeJSON replaces a file as a whole. It does not sync: what it describes dies with the
// kernel.
func writeJSON(path string, v any) error {
	content, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode state: %w", err)
	}
	half := path + ".new"
	if err := os.WriteFile(half, content, 0o600); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	if err := os.Rename(half, path); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	return nil
}

func readJSON(path string, v any) error {
	content, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("read state: %w: %w", errdefs.ErrNotFound, err)
	}
	if err != nil {
		return fmt.Errorf("read state: %w", err)
	}
	if err := json.Unmarshal(content, v); err != nil {
		return fmt.Errorf("decode state: %w: %w", errdefs.ErrInternal, err)
	}
	return nil
}

// Status is what the sandbox says of itself.
func (p *pod) Status() sandbox.Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := sandbox.Status{Ready: p.failure == nil && !p.stopped, IPs: p.state.IPs, CgroupPath: p.cgroupPath()}
	if !p.stopped {
		s.NetNS = p.state.NetNS
	}
	return s
}

// Done is closed when the sandbox is no longer ready.
func (p *pod) Done() <-chan struct{} { return p.done }

// end closes done, once, and remembers the reason.
func (p *pod) end(reason error) (first bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failure != nil {
		return false
	}
	p.failure, p.failedAt = reason, time.Now()
	close(p.done)
	return true
}

// ended is why the pod ended and when; nil if it has not.
func (p *pod) ended() (time.Time, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.failedAt, p.failure
}

// within is a context for calls to the guest: it ends with the pod, and after budget
// unless that is 0. An error tells that the pod has ended, or never began.
func (p *pod) within(ctx context.Context, budget time.Duration) (context.Context, context.CancelFunc, error) {
	if _, err := p.ended(); err != nil {
		return nil, nil, err
	}
	if p.machine == nil {
		return nil, nil, fmt.Errorf("find virtual machine: %w", errdefs.ErrNotFound)
	}
	limit := func() {}
	if budget > 0 {
		ctx, limit = context.WithTimeout(ctx, budget)
	}
	ctx, cancel := context.WithCancel(ctx)
	go func() { // ends when the caller is done
		select {
		case <-p.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(); limit() }, nil
}

// guest makes calls to the guest within budget.
func (p *pod) guest(ctx context.Context, budget time.Duration, f func(context.Context) error) error {
	within, cancel, err := p.within(ctx, budget)
	if err != nil {
		return err
	}
	defer cancel()
	err = f(within)
	if err == nil || ctx.Err() != nil || within.Err() == nil {
		return err
	}
	if _, why := p.ended(); why != nil {
		return why
	}
	return fmt.Errorf("guest did not answer in %s: %w: %w", budget, errdefs.ErrUnavailable, err)
}

// Dial connects to a TCP port on the loopback interface of the guest.
func (p *pod) Dial(ctx context.Context, port int) (conn net.Conn, err error) {
	if port <= 0 || port > 65535 {
		return nil, fmt.Errorf("dial port %d: %w", port, errdefs.ErrInvalidArgument)
	}
	err = p.guest(ctx, callBudget, func(ctx context.Context) error {
		conn, err = p.machine.Open(ctx, agent.ServiceTCP+strconv.Itoa(port))
		if err != nil {
			return fmt.Errorf("dial port %d of the pod: %w: %w", port, errdefs.ErrUnavailable, err)
		}
		return nil
	})
	return conn, err
}
