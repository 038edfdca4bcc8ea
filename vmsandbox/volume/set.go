package volume

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/vmsandbox/agent"
)

// Options are what a Set is made of.
type Options struct {
	// Guest is nil if the machine is gone: what State describes can only be removed then.
	Guest agent.Guest
	// Dir is what the machine exports by 9p, made by MakeDir; empty for that of State.
	Dir string
	// Disk returns a directory of the guest that has room for the nth disk emptyDir,
	// beginning with 0, and the host's file in which nothing else is kept, "" if there is
	// none.
	Disk func(ctx context.Context, nth int) (dir, file string, err error)
	// Watcher is needed with a Guest, and shared with other Sets.
	Watcher *Watcher
	// State is what an earlier Set said of itself; nil for a pod's first.
	State json.RawMessage
	// Changed, if set, is called when State may have changed without a call of a method. Of
	// the Set's methods it may call State.
	Changed func()
	Log     *slog.Logger
}

// Set is the volumes of one pod. It is safe for concurrent use.
type Set struct {
	opts Options
	// alive ends with Close and Release, and with it every call to the guest.
	alive context.Context
	end   context.CancelFunc
	// lock is held by whoever uses the fields below, over calls to the guest too.
	lock  chan struct{}
	state state

	follow follower
}

// state is what a later Set needs to know.
type state struct {
	Dir  string `json:"dir"`
	Next int    `json:"next"` // names are never used twice: the guest may still hold old ones
	// Mirror and Shared: the guest has mounted the tmpfs for mirrored volumes, and the 9p
	// file system.
	Mirror  bool               `json:"mirror,omitempty"`
	Shared  bool               `json:"shared,omitempty"`
	Volumes map[string]*volume `json:"volumes,omitempty"`
}

// volume is one volume of a pod. Which fields are used depends on its kind.
type volume struct {
	Kind   kind     `json:"kind"`
	Name   string   `json:"name"`
	Source string   `json:"source"`
	Path   string   `json:"path"`            // in the guest
	Users  []string `json:"users,omitempty"` // ids of containers
	// Targets are where they mount it: "ID PATH".
	Targets []string `json:"targets,omitempty"`

	// Which file of the host it is: of a file that is copied back, and of an emptyDir on a
	// disk of its own that disk.
	Dev uint64 `json:"dev,omitempty"`
	Ino uint64 `json:"ino,omitempty"`

	// Of mirrored volumes: what the guest has, and for a file that is copied back what
	// content both sides had last.
	Sums     map[string]string `json:"sums,omitempty"`
	Writable bool              `json:"writable,omitempty"`
	Content  string            `json:"content,omitempty"`

	// Of shared ones.
	Readonly  bool `json:"readonly,omitempty"`
	Recursive bool `json:"recursive,omitempty"`
	Follow    bool `json:"follow,omitempty"`

	watched bool
	wd      int32
}

// Where volumes lie in the guest.
const (
	mirrorDir = agent.DirVolumes + "/mirror" // tmpfs
	sharedDir = agent.DirShared + "/host"    // 9p
)

// untold is more than the names that a Set can have given after it was last asked for its
// State.
const untold = 1000

// New makes the Set of a pod, or takes up that of an earlier daemon.
func New(o Options) (*Set, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Set{opts: o, lock: make(chan struct{}, 1), state: state{Dir: o.Dir, Volumes: map[string]*volume{}}}
	s.alive, s.end = context.WithCancel(context.Background())
	s.follow.init()
	if len(o.State) > 0 {
		if err := json.Unmarshal(o.State, &s.state); err != nil {
			return nil, fmt.Errorf("read state of volumes: %w: %w", errdefs.ErrInvalidArgument, err)
		}
		if s.state.Volumes == nil {
			s.state.Volumes = map[string]*volume{}
		}
		s.state.Next += untold
	}
	if o.Dir != "" {
		s.state.Dir = o.Dir
	}
	if o.Guest == nil || s.state.Dir == "" {
		return s, nil
	}
	if err := s.resume(); err != nil {
		return nil, errors.Join(err, s.Release())
	}
	return s, nil
}

// acquire waits for the lock; the returned context ends with the Set.
func (s *Set) acquire(ctx context.Context) (context.Context, func(), error) {
	select {
	case s.lock <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(s.alive, cancel)
	return ctx, func() { stop(); cancel(); <-s.lock }, nil
}

// Add makes what m mounts appear in the guest, and returns the bind mount to be made
// there. What cannot cross the border is errdefs.ErrInvalidArgument or
// errdefs.ErrFailedPrecondition, with the name of the field.
func (s *Set) Add(ctx context.Context, container string, m runtime.Mount) (runtime.Mount, error) {
	if len(m.Image) > 0 {
		return runtime.Mount{}, fmt.Errorf("show an image as a volume: %w", errdefs.ErrInvalidArgument)
	}
	src, err := openSource(m.Source)
	if err != nil {
		return runtime.Mount{}, err
	}
	defer src.close()
	p, err := classify(m, src, s.state.Dir)
	if err != nil {
		return runtime.Mount{}, err
	}
	ctx, release, err := s.acquire(ctx)
	if err != nil {
		return runtime.Mount{}, err
	}
	defer release()
	if s.opts.Guest == nil || s.alive.Err() != nil {
		return runtime.Mount{}, fmt.Errorf("show a volume to a machine that is gone: %w", errdefs.ErrFailedPrecondition)
	}
	v, err := s.show(ctx, m, src, p)
	if err != nil {
		return runtime.Mount{}, err
	}
	if !slices.Contains(v.Users, container) {
		v.Users = append(v.Users, container)
	}
	if t := target(container, m.Destination); !slices.Contains(v.Targets, t) {
		v.Targets = append(v.Targets, t)
	}
	return s.inGuest(ctx, m, v, p)
}

// inGuest is m as it is to be made in the guest.
func (s *Set) inGuest(ctx context.Context, m runtime.Mount, v *volume, p plan) (runtime.Mount, error) {
	m.Source = v.Path
	m.Options = slices.Clone(m.Options)
	// Later mounts appear in the shared file system itself, which no propagation adds to.
	m.Propagation = ""
	m.SELinuxRelabel = false
	if v.Kind == kindShared && !slices.Contains(m.Options, "nodev") {
		m.Options = append(m.Options, "nodev") // numbers of the host's devices mean others here
	}
	if p.topOnly && v.Kind == kindShared {
		m.Readonly = false // the export is
	}
	if p.sub != "" {
		if err := s.makeSub(ctx, v, p); err != nil {
			return runtime.Mount{}, err
		}
		m.Source = path.Join(v.Path, p.sub)
	}
	return m, nil
}

// show returns the volume that m wants, a new one if there is none yet.
func (s *Set) show(ctx context.Context, m runtime.Mount, src *source, p plan) (*volume, error) {
	key, like := s.key(m, src, p)
	if v := s.state.Volumes[key]; v != nil {
		v.Writable = v.Writable || like.Writable
		return v, nil
	}
	v := &like
	s.state.Next++
	v.Name = strconv.Itoa(s.state.Next)
	err := s.make(ctx, v, key, src)
	if errors.Is(err, errNotMirrored) {
		s.opts.Log.Debug("volume is shared", "source", p.source, "reason", err)
		if err := s.shareable(m, src); err != nil {
			return nil, err
		}
		return s.show(ctx, m, src, plan{kind: kindShared, source: src.path})
	}
	if err != nil {
		return nil, err
	}
	s.state.Volumes[key] = v
	return v, nil
}

func (s *Set) shareable(m runtime.Mount, src *source) error {
	mounts, err := readMounts()
	if err != nil {
		return err
	}
	return checkShared(m, src, mounts, s.state.Dir)
}

// key identifies a volume among those of the pod: mounts with the same key share it. Two
// containers see each other's locks and mappings of a shared file only through one and
// the same export, so one that only reads joins one that writes.
func (s *Set) key(m runtime.Mount, src *source, p plan) (string, volume) {
	v := volume{Kind: p.kind, Source: p.source}
	key := string(p.kind) + " " + p.source
	switch p.kind {
	case kindFile:
		v.Writable = !m.Readonly
		v.Dev, v.Ino = src.stat.Dev, src.stat.Ino
		return fileKey(key, v), v
	case kindShared:
		v.Follow = m.Propagation == runtime.PropagationHostToContainer
		key = fmt.Sprintf("%s follow=%t", key, v.Follow)
		if !m.Readonly || s.state.Volumes[key] != nil && !p.topOnly {
			return key, v
		}
		v.Readonly, v.Recursive = true, m.RecursiveReadOnly
		return fmt.Sprintf("%s readonly recursive=%t", key, v.Recursive), v
	}
	return key, v
}

func fileKey(key string, v volume) string { return fmt.Sprintf("%s %d:%d", key, v.Dev, v.Ino) }

// target names one mount of a container.
func target(container, destination string) string { return container + " " + path.Clean(destination) }

// RemoveContainer lets go of what only that container used. emptyDirs stay: they live as
// long as the pod. It is idempotent, and needs no guest that answers.
func (s *Set) RemoveContainer(ctx context.Context, container string) error {
	ctx, release, err := s.acquire(ctx)
	if err != nil {
		return err
	}
	defer release()
	var errs []error
	for key, v := range s.state.Volumes {
		v.Users = slices.DeleteFunc(v.Users, func(u string) bool { return u == container })
		v.Targets = slices.DeleteFunc(v.Targets, func(t string) bool { return strings.HasPrefix(t, container+" ") })
		if len(v.Users) > 0 || v.Kind == kindMemory || v.Kind == kindDisk {
			continue
		}
		if err := s.drop(ctx, key, v); err != nil {
			errs = append(errs, err)
			continue
		}
		delete(s.state.Volumes, key)
	}
	return errors.Join(errs...)
}

// State describes the Set for the State of another one's Options.
func (s *Set) State() (json.RawMessage, error) {
	s.lock <- struct{}{}
	defer func() { <-s.lock }()
	b, err := json.Marshal(s.state)
	if err != nil {
		return nil, fmt.Errorf("describe volumes: %w", err)
	}
	return b, nil
}

// Release stops following changes and leaves everything as it is, for a Set to come.
func (s *Set) Release() error {
	s.end()
	s.follow.wait()
	s.lock <- struct{}{}
	defer func() { <-s.lock }()
	for key, v := range s.state.Volumes {
		s.unwatch(v, key)
	}
	return nil
}

// Close removes everything that the volumes left on the host; the guest is not asked, it
// is about to end. It is idempotent.
func (s *Set) Close() error {
	if err := s.Release(); err != nil {
		return err
	}
	s.lock <- struct{}{}
	defer func() { <-s.lock }()
	for _, v := range s.state.Volumes {
		v.hideDisk()
	}
	s.state.Volumes = map[string]*volume{}
	if s.state.Dir == "" {
		return nil
	}
	return removeExports(s.state.Dir)
}
