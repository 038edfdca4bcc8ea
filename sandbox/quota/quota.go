package quota

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Range are the numbers of projects that may be given away, both ends included. Others of
// the file system belong to others.
type Range struct{ First, Last uint32 }

// Projects gives projects to directories of one file system. It is safe for concurrent use.
type Projects struct {
	parent string
	limit  uint64
	ids    Range

	mu   sync.Mutex
	used map[uint32]bool
	next uint32
}

// Usage is what a directory holds with all below it.
type Usage struct{ Bytes, Inodes uint64 }

// Open returns the projects of the directories in parent, each of which may hold limit
// bytes. It fails with errdefs.ErrFailedPrecondition, and says what to do, where the file
// system does not enforce project quotas.
func Open(parent string, limit uint64, ids Range) (*Projects, error) {
	p := &Projects{parent: parent, limit: limit, ids: ids, used: map[uint32]bool{}, next: ids.First}
	if ids.First == 0 || ids.Last < ids.First {
		return nil, fmt.Errorf("projects %d to %d: %w", ids.First, ids.Last, errdefs.ErrInvalidArgument)
	}
	if err := Check(parent); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(parent)
	if err != nil {
		return nil, fmt.Errorf("list directories with a project: %w", err)
	}
	for _, e := range entries {
		id, err := read(filepath.Join(parent, e.Name()))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		p.used[id] = true
	}
	return p, nil
}

// Check tells whether the file system of a directory enforces project quotas; if not, the
// error is errdefs.ErrFailedPrecondition.
func Check(dir string) error {
	fd, err := openDir(dir)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	enforced, err := state(fd)
	if err == nil && enforced {
		return nil
	}
	if err == nil {
		err = errors.New("they are off")
	}
	return fmt.Errorf("no project quotas on the file system of %s: mount it with the option prjquota; "+
		"ext4 needs the features quota and project (tune2fs -O quota,project), and the kernel CONFIG_QFMT_V2 or CONFIG_XFS_QUOTA: %w: %w",
		dir, errdefs.ErrFailedPrecondition, err)
}

// Assign gives a new, empty directory in the parent a project of its own, with the limit.
// All that is made in it from then on counts. It fails with errdefs.ErrResourceExhausted
// if no project is left.
func (p *Projects) Assign(dir string) (err error) {
	fd, err := openDir(dir)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	id, err := p.take()
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			p.give(id)
		}
	}()
	// The limit comes first: nothing is ever in the project without it.
	if err := setLimit(fd, id, p.limit); err != nil {
		return fmt.Errorf("limit project %d: %w", id, err)
	}
	if err := mark(fd, id); err != nil {
		return fmt.Errorf("give %s project %d: %w", filepath.Base(dir), id, errors.Join(err, setLimit(fd, id, 0)))
	}
	return nil
}

// Release is to be called before a directory is removed, and what it returns after that:
// then its project may be another's. Removing never fails for it: a limit that stays behind
// is on nothing, and the next who gets the project sets its own.
func (p *Projects) Release(dir string) (after func()) {
	id, err := read(dir)
	if err != nil || !p.ours(id) {
		return func() {}
	}
	return func() {
		if fd, err := openDir(p.parent); err == nil {
			_ = setLimit(fd, id, 0)
			unix.Close(fd)
		}
		p.give(id)
	}
}

// Usage answers at once, however much a directory holds. It is errdefs.ErrNotFound for one
// without a project, as those are that were made without a limit.
func (p *Projects) Usage(dir string) (Usage, error) {
	fd, err := openDir(dir)
	if err != nil {
		return Usage{}, err
	}
	defer unix.Close(fd)
	id, err := readMark(fd)
	if err != nil {
		return Usage{}, err
	}
	if !p.ours(id) {
		return Usage{}, fmt.Errorf("project of %s: %w", filepath.Base(dir), errdefs.ErrNotFound)
	}
	return usage(fd, id)
}

func (p *Projects) ours(id uint32) bool { return id >= p.ids.First && id <= p.ids.Last }

// take finds a number that no directory has. They go round, so that a number rests before
// it is given away again.
func (p *Projects) take() (uint32, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for range uint64(p.ids.Last-p.ids.First) + 1 {
		id := p.next
		if p.next++; id == p.ids.Last {
			p.next = p.ids.First
		}
		if !p.used[id] {
			p.used[id] = true
			return id, nil
		}
	}
	return 0, fmt.Errorf("all projects from %d to %d are in use: %w", p.ids.First, p.ids.Last, errdefs.ErrResourceExhausted)
}

func (p *Projects) give(id uint32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.used, id)
}

func openDir(dir string) (int, error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: dir, Err: err}
	}
	return fd, nil
}

func read(dir string) (uint32, error) {
	fd, err := openDir(dir)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	return readMark(fd)
}
