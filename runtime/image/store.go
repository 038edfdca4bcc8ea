package image

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"

	"github.com/cricket-cri/cricket/runtime/image/trust"
)

// Options say where images live and how they are pulled.
type Options struct {
	// Root is the directory of the records, such as /var/lib/cricket/images; made if it
	// is absent. One store uses it at a time.
	Root string
	// HostsDir holds <registry>/hosts.toml and _default/hosts.toml in containerd's
	// format; empty for none. It is read anew by every pull.
	HostsDir string
	Layers   Layers
	Log      *slog.Logger // discarded if nil

	// Pinned lists full names of images that garbage collection shall spare. A star at
	// the begin or end of one stands for anything.
	Pinned []string
	// AuthFile has the credentials of pulls that bring none, in the format of Docker's
	// config.json; empty for none. It is read anew by every pull that needs one.
	AuthFile string
	// Parallel is how many layers of one pull are fetched at once; 3 if zero.
	Parallel int
	// PerRegistry and Total bound the layers that are fetched at once for all pulls, from
	// one registry and altogether; 6 and 12 if zero.
	PerRegistry, Total int
	// Stall is how long a request may wait for the network without a byte; 5 minutes if
	// zero. Then the next endpoint of the registry is asked, or the pull fails.
	Stall time.Duration
	// Backoff is the wait before the first repetition of a request, doubled with each
	// one more; 250 milliseconds if zero.
	Backoff time.Duration
	// MaxLayer bounds one layer's tar stream, or file of an artifact, in bytes, against layers that inflate
	// without end (images.max_layer_size); 128 GiB if zero. A disk that fills up before that fails the pull with
	// ErrResourceExhausted, and what the pull took is given back.
	MaxLayer int64
	// Trust says which images may be pulled and used.
	Trust trust.Policies
	// UserAgent is what registries are told; "cricket" if empty.
	UserAgent string
}

// Store keeps the images of a node. It is safe for concurrent use.
type Store struct {
	opts     Options
	platform platforms.MatchComparer
	holds    holds
	calls    calls
	slots    *slots
	pulls    pulls
	counts   counters

	// commit is held while records change on disk, so that disk and memory change in
	// the same order.
	commit sync.Mutex

	mu      sync.RWMutex // guards the maps; their values are never changed, but replaced
	entries map[digest.Digest]entry
	names   map[string]digest.Digest // tags and digests, in full
	uses    map[digest.Digest]int    // layers: how many records name them
	seq     uint64                   // the greatest number given to a tag
}

// entry is a record with what is derived from it.
type entry struct {
	record record
	image  Image
}

// Open reads the records, removes images that are not whole and what they left behind,
// and returns the store.
func Open(opts Options) (*Store, error) {
	s := &Store{
		opts:     opts.withDefaults(),
		platform: nodePlatform(),
		holds:    holds{pins: map[digest.Digest]int{}, busy: map[digest.Digest]chan struct{}{}},
		calls:    calls{open: map[string]*call{}},
		pulls:    pulls{open: map[*transfer]bool{}},
		entries:  map[digest.Digest]entry{},
		names:    map[string]digest.Digest{},
		uses:     map[digest.Digest]int{},
	}
	s.slots = newSlots(s.opts.Total, s.opts.PerRegistry)
	if err := os.MkdirAll(opts.Root, 0o700); err != nil {
		return nil, fmt.Errorf("open image store: %w", err)
	}
	if err := s.restore(); err != nil {
		return nil, fmt.Errorf("open image store: %w", err)
	}
	if err := s.sweep(context.Background()); err != nil { // nobody waits for it who could give up
		s.opts.Log.Warn("unused layers stay for now", "error", err)
	}
	return s, nil
}

func (o Options) withDefaults() Options {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Parallel = cmp.Or(o.Parallel, 3)
	o.PerRegistry = cmp.Or(o.PerRegistry, 6)
	o.Total = cmp.Or(o.Total, 12)
	o.Stall = cmp.Or(o.Stall, 5*time.Minute)
	o.Backoff = cmp.Or(o.Backoff, 250*time.Millisecond)
	o.MaxLayer = cmp.Or(o.MaxLayer, 128<<30)
	o.UserAgent = cmp.Or(o.UserAgent, "cricket")
	o.Pinned = fullPatterns(o.Pinned)
	return o
}

// restore fills the memory from the records.
func (s *Store) restore() error {
	records, err := load(s.opts.Root, func(file string, err error) {
		s.opts.Log.Error("image record is set aside", "file", file, "error", err)
	})
	if err != nil {
		return err
	}
	for _, r := range records {
		if missing := slices.IndexFunc(r.DiffIDs, s.opts.Layers.Lacks); missing >= 0 {
			s.opts.Log.Warn("image is removed, a layer of it is gone", "image", r.ID, "layer", r.DiffIDs[missing])
			if err := r.erase(s.opts.Root); err != nil {
				return err
			}
			continue
		}
		s.index(r)
	}
	s.settle(records)
	return nil
}

// settle writes what a crash kept from being written: that a tag has moved away.
func (s *Store) settle(records []record) {
	for _, r := range records {
		if e, ok := s.entries[r.ID]; ok && len(e.record.Tags) != len(r.Tags) {
			if err := e.record.write(s.opts.Root); err != nil {
				s.opts.Log.Warn("moved tag stays in the old image's record", "image", r.ID, "error", err)
			}
		}
	}
}

// index puts a record into the memory, in place of an older one of the same image. Tags
// that a younger record has are left out, and taken from older ones.
func (s *Store) index(r record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget(r.ID)
	for tag, n := range r.Tags {
		s.seq = max(s.seq, n)
		owner, taken := s.names[tag]
		if taken && s.entries[owner].record.Tags[tag] > n {
			r = r.withoutTag(tag)
			continue
		}
		if taken {
			s.entries[owner] = s.entry(s.entries[owner].record.withoutTag(tag))
		}
		s.names[tag] = r.ID
	}
	e := s.entry(r)
	for _, d := range r.Digests {
		if owner, taken := s.names[d]; !taken || s.suits(e) || !s.suits(s.entries[owner]) {
			s.names[d] = r.ID
		}
	}
	for _, d := range r.DiffIDs {
		s.uses[d]++
	}
	s.entries[r.ID] = e
}

// suits tells whether an image is for this platform, or for any. An index leads to others,
// too, which can be imported.
func (s *Store) suits(e entry) bool {
	return e.image.Artifact != "" || s.platform.Match(e.image.Config.Platform)
}

// forget takes a record out of the memory; s.mu is held.
func (s *Store) forget(id digest.Digest) {
	e, ok := s.entries[id]
	if !ok {
		return
	}
	delete(s.entries, id)
	for n, owner := range s.names {
		if owner == id {
			delete(s.names, n)
		}
	}
	for other, o := range s.entries { // a digest may have led to several
		for _, d := range o.record.Digests {
			if owner, taken := s.names[d]; !taken || s.suits(o) && !s.suits(s.entries[owner]) {
				s.names[d] = other
			}
		}
	}
	for _, d := range e.record.DiffIDs {
		if s.uses[d]--; s.uses[d] == 0 {
			delete(s.uses, d)
		}
	}
}

func (s *Store) entry(r record) entry {
	return entry{record: r, image: r.image(s.opts.Pinned, s.opts.Log)}
}

// image is what others see of a record.
func (r record) image(patterns []string, log *slog.Logger) Image {
	config, artifact, err := r.content()
	if err != nil { // checked by those who make and read records
		log.Error("image configuration is unreadable", "image", r.ID, "error", err)
	}
	tags := make([]string, 0, len(r.Tags))
	for t := range r.Tags {
		tags = append(tags, t)
	}
	slices.Sort(tags)
	return Image{
		ID: r.ID, Artifact: artifact, RepoTags: tags, RepoDigests: r.Digests, Size: r.Size,
		Config: config, Layers: r.DiffIDs, PulledAt: r.PulledAt, Checkpoint: r.Checkpoint,
		Pinned: r.Pinned || pinned(patterns, append(slices.Clone(tags), r.Digests...)...),
	}
}

// Get finds an image by name with tag or digest, by id, or by the first six or more
// digits of its id. The error is ErrNotFound, or ErrInvalidArgument for digits that
// several ids begin with.
func (s *Store) Get(ref string) (Image, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if e, ok := s.entries[digest.Digest(ref)]; ok {
		return e.image, nil
	}
	if n, err := parseName(ref); err == nil {
		if id, ok := s.names[n.full]; ok {
			return s.entries[id].image, nil
		}
	}
	return s.byPrefix(ref)
}

func (s *Store) byPrefix(ref string) (Image, error) {
	var found []Image
	if hex, ok := idPrefix(ref); ok {
		for id, e := range s.entries {
			if len(id.Encoded()) >= len(hex) && id.Encoded()[:len(hex)] == hex {
				found = append(found, e.image)
			}
		}
	}
	switch len(found) {
	case 0:
		return Image{}, fmt.Errorf("find image %q: %w", ref, errdefs.ErrNotFound)
	case 1:
		return found[0], nil
	}
	return Image{}, fmt.Errorf("find image %q: %w: %d ids begin like that", ref, errdefs.ErrInvalidArgument, len(found))
}

// List returns all images, sorted by id.
func (s *Store) List() []Image {
	s.mu.RLock()
	images := make([]Image, 0, len(s.entries))
	for _, e := range s.entries {
		images = append(images, e.image)
	}
	s.mu.RUnlock()
	slices.SortFunc(images, func(a, b Image) int { return cmp.Compare(a.ID, b.ID) })
	return images
}

// Usage is what images take of the disk.
type Usage struct {
	At            time.Time
	Bytes, Inodes uint64
}

// Usage measures records and layers, in bytes and inodes truly allocated.
func (s *Store) Usage() (Usage, error) {
	u := Usage{At: time.Now()}
	err := filepath.WalkDir(s.opts.Root, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if os.IsNotExist(err) {
			return nil // removed meanwhile
		}
		if err != nil {
			return err
		}
		u.Inodes++
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			u.Bytes += uint64(st.Blocks) * 512
		}
		return nil
	})
	if err != nil {
		return Usage{}, fmt.Errorf("measure image records: %w", err)
	}
	bytes, inodes := s.opts.Layers.Usage()
	u.Bytes += bytes
	u.Inodes += inodes
	return u, nil
}
