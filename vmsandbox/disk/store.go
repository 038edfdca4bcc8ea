package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// DefaultBytes is the nominal size of a disk.
const DefaultBytes = 64 << 30

// minBytes and maxBytes are what the features of the file system were chosen for.
const (
	minBytes = 16 << 20
	maxBytes = 16 << 40
	blocks   = 1 << 20 // sizes are a multiple of it
)

// Options of a Store.
type Options struct {
	// Dir holds the disks. It must be able to hold sparse files, and should not be a
	// tmpfs.
	Dir string
	// Bytes is the nominal size of a disk, from 16 MiB to 16 TiB, rounded up to whole MiB;
	// 0 is DefaultBytes.
	Bytes int64
	// Program makes file systems; empty for mkfs.ext4 in PATH.
	Program string
	Log     *slog.Logger
}

// Store makes disks and keeps them by owner. It is safe for concurrent use.
type Store struct {
	options Options

	mu      sync.Mutex
	pattern []extent // what an empty file system consists of, nil until it is needed
}

// Open makes the store's directory, and nothing else.
func Open(o Options) (*Store, error) {
	if o.Bytes == 0 {
		o.Bytes = DefaultBytes
	}
	if o.Dir == "" || o.Bytes < minBytes || o.Bytes > maxBytes {
		return nil, fmt.Errorf("configure disks: directory missing, or size of %d bytes out of range: %w", o.Bytes, errdefs.ErrInvalidArgument)
	}
	o.Bytes = (o.Bytes + blocks - 1) / blocks * blocks
	if o.Program == "" {
		o.Program = "mkfs.ext4"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make directory of disks: %w", err)
	}
	return &Store{options: o}, nil
}

// Take makes a disk for an owner and returns its path. It is whole or not there at all;
// errdefs.ErrAlreadyExists if the owner has one of that name.
func (s *Store) Take(ctx context.Context, owner, name string) (string, error) {
	path, err := s.Path(owner, name)
	if err != nil {
		return "", err
	}
	pattern, err := s.empty(ctx)
	if err != nil {
		return "", fmt.Errorf("prepare disk: %w", err)
	}
	return path, s.make(path, pattern)
}

// Copy is like Take for a disk that is what another one was when it was read.
func (s *Store) Copy(owner, name string, p *Pattern) (string, error) {
	path, err := s.Path(owner, name)
	if err != nil {
		return "", err
	}
	return path, s.make(path, p.extents)
}

// Read remembers what a disk is now. Nobody may write to it meanwhile.
func (s *Store) Read(owner, name string) (*Pattern, error) {
	path, err := s.Path(owner, name)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read disk: %w", err)
	}
	defer f.Close()
	extents, err := read(f, s.options.Bytes)
	if err != nil {
		return nil, err
	}
	return &Pattern{extents}, nil
}

func (s *Store) make(path string, pattern []extent) error {
	err := os.Mkdir(filepath.Dir(path), 0o700)
	if err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("make disk: %w", kind(err))
	}
	err = writeWith(path, func(f *os.File) error { return fill(f, s.options.Bytes, pattern) })
	if err != nil {
		return fmt.Errorf("make disk: %w", kind(err))
	}
	return nil
}

// kind says what an error of the file system means to a caller.
func kind(err error) error {
	switch {
	case errors.Is(err, os.ErrExist):
		return fmt.Errorf("%w: %w", errdefs.ErrAlreadyExists, err)
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return fmt.Errorf("%w: %w", errdefs.ErrResourceExhausted, err)
	default:
		return err
	}
}

// writeWith makes the file beside its place and links it there, so that a name has either
// nothing or a whole disk.
func writeWith(path string, fill func(*os.File) error) error {
	dir, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	temp := "." + filepath.Base(path)
	fd, err := unix.Openat(dir, temp, unix.O_RDWR|unix.O_CREAT|unix.O_TRUNC|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), temp)
	err = fill(f)
	err = errors.Join(err, f.Close())
	if err == nil {
		err = unix.Renameat2(dir, temp, dir, filepath.Base(path), unix.RENAME_NOREPLACE)
	}
	if err != nil {
		return errors.Join(err, unix.Unlinkat(dir, temp, 0))
	}
	return nil
}

// Usage tells how many bytes of the host's disk each disk of an owner takes. An owner
// without disks has an empty map.
func (s *Store) Usage(owner string) (map[string]uint64, error) {
	dir, err := s.Path(owner, "")
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read disks: %w", err)
	}
	usage := make(map[string]uint64, len(entries))
	for _, e := range entries {
		var st unix.Stat_t
		err := unix.Lstat(filepath.Join(dir, e.Name()), &st)
		if errors.Is(err, os.ErrNotExist) || !visible(e) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read usage of disk: %w", err)
		}
		usage[e.Name()] = uint64(st.Blocks) * 512
	}
	return usage, nil
}

func visible(e fs.DirEntry) bool { return e.Type().IsRegular() && !strings.HasPrefix(e.Name(), ".") }

// Remove removes an owner's disks of those names, or without names all that it has. It
// is idempotent, and a machine that still has one open goes on with it.
func (s *Store) Remove(owner string, names ...string) error {
	dir, err := s.Path(owner, "")
	if err != nil {
		return err
	}
	if len(names) == 0 {
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("remove disks: %w", err)
		}
		return nil
	}
	for _, name := range names {
		path, err := s.Path(owner, name)
		if err != nil {
			return err
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove disk: %w", err)
		}
	}
	return nil
}

// Owners lists who has disks.
func (s *Store) Owners() ([]string, error) {
	entries, err := os.ReadDir(s.options.Dir)
	if err != nil {
		return nil, fmt.Errorf("list disks: %w", err)
	}
	var owners []string
	for _, e := range entries {
		if e.IsDir() {
			owners = append(owners, e.Name())
		}
	}
	return owners, nil
}

// Reconcile removes the disks of all owners but those that live.
func (s *Store) Reconcile(lives func(owner string) bool) error {
	owners, err := s.Owners()
	if err != nil {
		return err
	}
	var errs []error
	for _, owner := range owners {
		if lives(owner) {
			continue
		}
		s.options.Log.Info("remove disks that a machine left", "machine", owner)
		errs = append(errs, s.Remove(owner))
	}
	return errors.Join(errs...)
}

// Path is where an owner's disk lies, or with an empty name its directory, whether they
// exist or not: errdefs.ErrInvalidArgument if the two are no names.
func (s *Store) Path(owner, name string) (string, error) {
	if !valid(owner) || name != "" && !valid(name) {
		return "", fmt.Errorf("name disk %q of %q: %w", name, owner, errdefs.ErrInvalidArgument)
	}
	return filepath.Join(s.options.Dir, owner, name), nil
}

func valid(name string) bool {
	return name != "" && len(name) <= 128 && name[0] != '.' && !strings.ContainsAny(name, "/\x00")
}
