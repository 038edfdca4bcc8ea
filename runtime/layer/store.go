// Package layer keeps the layers of images: one immutable EROFS blob each, named
// after the layer's diff id.
//
// A blob is made in one stream from the layer's tar, mounted by file on the host and
// handed as a disk to virtual machines. There is nothing beside the blobs: no
// database, no sidecar, and no memory of what is mounted but the kernel's own and, beside a
// mount point, of which file it is. A blob has its name only when it is whole and on the disk.
package layer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime/layer/erofs"
)

// Options of a Store.
type Options struct {
	// Root holds the blobs; it is made if missing.
	Root string
	// State holds the mount points; it is made if missing. Without it layers come and go,
	// and cannot be mounted.
	State string
	// Log may be nil.
	Log *slog.Logger
	// ForceLoop mounts through loop devices as on kernels before 6.12.
	ForceLoop bool
	// DirectIO keeps the blobs themselves out of the page cache, which holds what was
	// read of a mount anyhow: half the memory, but the first reads after a pull come
	// from the disk. It is ignored where the kernel does not know it (before 6.15) or
	// the file system of Root has no direct I/O.
	DirectIO bool
	// FSVerity has the kernel check every read of new blobs, where it and the file system
	// of Root can; where they cannot, Open logs a warning.
	FSVerity bool
	// Limits on what a layer may hold; zero fields take the defaults.
	Limits erofs.Limits
}

// Store is the layer store of one node. All methods are safe for concurrent use.
// Two processes must not have one Store open at the same time.
type Store struct {
	root, state string
	log         *slog.Logger
	forceLoop   bool
	directIO    bool
	fsVerity    bool
	limits      erofs.Limits
	locks       locks // one per layer
	// misleading has the answers of misleads, which never change, by the chain's name.
	misleading sync.Map
}

// Step is the unit of the files' length, in bytes: what a virtual machine can map as
// memory. What a file is longer for it occupies no room.
const Step = 2 << 20

const (
	blobSuffix = ".erofs"
	tempPrefix = "ingest-"
)

// Open opens the store, and makes it if there is none. It removes what interrupted
// ingests left, blobs that a power loss has torn, and mounts whose blob is gone or another
// than when it was mounted. Whole blobs that are mounted stay so.
func Open(o Options) (*Store, error) {
	s := &Store{log: o.Log, forceLoop: o.ForceLoop, directIO: o.DirectIO, fsVerity: o.FSVerity, limits: o.Limits}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	var err error
	if s.root, err = makeDir(o.Root); err != nil {
		return nil, err
	}
	if err := s.cleanBlobs(); err != nil {
		return nil, err
	}
	if err := s.cleanMerged(); err != nil {
		return nil, err
	}
	if err := s.tryVerity(); err != nil {
		return nil, err
	}
	if o.State == "" {
		return s, nil
	}
	if s.state, err = makeDir(o.State); err != nil {
		return nil, err
	}
	if err := makePrivate(s.state); err != nil {
		return nil, err
	}
	if err := s.cleanMounts(); err != nil {
		return nil, err
	}
	return s, nil
}

// makeDir makes a directory that only root enters and returns its real path.
func makeDir(dir string) (string, error) {
	if dir == "" {
		return "", fmt.Errorf("open layer store: no directory given: %w", errdefs.ErrInvalidArgument)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make directory: %w", err)
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("make directory: %w", err)
	}
	return filepath.EvalSymlinks(abs)
}

func (s *Store) cleanBlobs() error {
	entries, err := os.ReadDir(s.root)
	if err != nil {
		return fmt.Errorf("list blobs: %w", err)
	}
	for _, e := range entries {
		why := error(nil)
		if strings.HasPrefix(e.Name(), tempPrefix) {
			why = errors.New("interrupted")
		} else if _, ok := blobID(e.Name()); ok {
			why = checkBlob(filepath.Join(s.root, e.Name()))
		}
		if why == nil {
			continue
		}
		s.log.Warn("remove layer blob", "file", e.Name(), "reason", why)
		if err := os.Remove(filepath.Join(s.root, e.Name())); err != nil {
			return fmt.Errorf("remove torn blob: %w", err)
		}
	}
	return nil
}

// checkBlob answers an error only for a blob that is known to be torn; one that cannot
// be read now may be whole.
func checkBlob(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return nil
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil
	}
	err = erofs.Check(f, st.Size())
	if errors.Is(err, unix.EIO) {
		return nil
	}
	return err
}

// name is a layer's name in both directories.
func name(id digest.Digest) (string, error) {
	if err := id.Validate(); err != nil {
		return "", fmt.Errorf("layer %.100q: %w: %w", id, errdefs.ErrInvalidArgument, err)
	}
	return string(id.Algorithm()) + "-" + id.Encoded(), nil
}

func blobID(file string) (digest.Digest, bool) {
	base, ok := strings.CutSuffix(file, blobSuffix)
	if !ok {
		return "", false
	}
	return mountID(base)
}

func mountID(base string) (digest.Digest, bool) {
	alg, hex, _ := strings.Cut(base, "-")
	id := digest.Digest(alg + ":" + hex)
	return id, id.Validate() == nil
}

func (s *Store) blob(name string) string   { return filepath.Join(s.root, name+blobSuffix) }
func (s *Store) target(name string) string { return filepath.Join(s.state, name) }

// Has tells whether the layer is there, whole. That it does not is no proof of the contrary.
func (s *Store) Has(id digest.Digest) bool {
	_, _, err := s.Blob(id)
	return err == nil
}

// Lacks tells whether the layer is known not to be there. Where the disk does not answer,
// neither this nor Has says so.
func (s *Store) Lacks(id digest.Digest) bool {
	_, _, err := s.Blob(id)
	return errdefs.IsNotFound(err) || errdefs.IsInvalidArgument(err)
}

// Blob returns the layer's file, to be read only, and its length in bytes, a multiple
// of Step. It answers errdefs.ErrNotFound if there is none.
func (s *Store) Blob(id digest.Digest) (path string, bytes int64, err error) {
	n, err := name(id)
	if err != nil {
		return "", 0, err
	}
	st, err := os.Lstat(s.blob(n))
	if errors.Is(err, fs.ErrNotExist) {
		return "", 0, fmt.Errorf("layer %s: %w", id, errdefs.ErrNotFound)
	}
	if err != nil {
		return "", 0, fmt.Errorf("stat layer: %w", err)
	}
	return s.blob(n), st.Size(), nil
}

// List returns the layers that are there, sorted.
func (s *Store) List() []digest.Digest {
	entries, err := os.ReadDir(s.root)
	if err != nil {
		s.log.Error("list layers", "error", err)
	}
	var ids []digest.Digest
	for _, e := range entries {
		if id, ok := blobID(e.Name()); ok {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// Usage returns what the store occupies on its file system: bytes of blocks really
// allocated, and inodes, unfinished ingests and the directory itself included.
func (s *Store) Usage() (bytes, inodes uint64) {
	add := func(path string) {
		var st unix.Stat_t
		if unix.Lstat(path, &st) == nil {
			bytes += uint64(st.Blocks) * 512
			inodes++
		}
	}
	add(s.root)
	entries, err := os.ReadDir(s.root)
	if err != nil {
		s.log.Error("measure layers", "error", err)
	}
	for _, e := range entries {
		add(filepath.Join(s.root, e.Name()))
	}
	for _, file := range s.mergedFiles() {
		add(file)
	}
	return bytes, inodes
}

// Remove unmounts and deletes the layer. It needs no free disk space, and a layer that
// is not there is no error. Containers that still use the layer keep it until they end.
func (s *Store) Remove(ctx context.Context, id digest.Digest) error {
	n, err := name(id)
	if err != nil {
		return err
	}
	release, err := s.locks.acquire(ctx, n)
	if err != nil {
		return err
	}
	defer release()
	if s.state != "" {
		if err := s.unmount(n); err != nil {
			return err
		}
	}
	if err := s.removeMerged(id); err != nil {
		return err
	}
	if err := os.Remove(s.blob(n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove blob: %w", err)
	}
	return nil
}
