package stat

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/cricket-cri/cricket/runtime"
)

// small is how many files are looked at while somebody waits for the answer.
const small = 256

var errTooMany = errors.New("too many files to count at once")

// disks remembers what writable layers occupy.
type disks struct {
	upper func(id string) string
	mu    sync.Mutex
	by    map[string]*runtime.DiskUsage // nil: left to the background
}

func newDisks(upper func(string) string) *disks {
	return &disks{upper: upper, by: map[string]*runtime.DiskUsage{}}
}

func (d *disks) get(id string) *runtime.DiskUsage {
	d.mu.Lock()
	known, ok := d.by[id]
	d.mu.Unlock()
	if ok || d.upper == nil {
		return known
	}
	u, err := usage(context.Background(), d.upper(id), small)
	if err != nil && !errors.Is(err, errTooMany) {
		return nil // not there (yet); asked again next time
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.by[id] = u
	return u
}

// measure counts the layers of all ids, one after the other.
func (d *disks) measure(ctx context.Context, ids []string) {
	if d.upper == nil {
		return
	}
	for _, id := range ids {
		u, err := usage(ctx, d.upper(id), 0)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			continue
		}
		d.mu.Lock()
		d.by[id] = u
		d.mu.Unlock()
	}
}

func (d *disks) forgetOthers(keep map[string]bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for id := range d.by {
		if !keep[id] {
			delete(d.by, id)
		}
	}
}

// usage counts the blocks and inodes below dir on its file system, hard links once.
// limit, if not 0, ends the count with errTooMany. Files that disappear meanwhile are
// left out.
func usage(ctx context.Context, dir string, limit uint64) (*runtime.DiskUsage, error) {
	u := &runtime.DiskUsage{At: time.Now()}
	links := make(map[uint64]bool)
	var dev uint64
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		var info fs.FileInfo
		if err == nil {
			info, err = e.Info()
		}
		if err != nil {
			if path != dir && errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return nil
		}
		if path == dir {
			dev = st.Dev
		}
		if st.Dev != dev {
			return skip(e)
		}
		if !e.IsDir() && st.Nlink > 1 {
			if links[st.Ino] {
				return nil
			}
			links[st.Ino] = true
		}
		u.Inodes++
		u.Bytes += uint64(st.Blocks) * 512 // st_blocks counts these, whatever the file system
		if limit > 0 && u.Inodes > limit {
			return errTooMany
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return u, nil
}

func skip(e fs.DirEntry) error {
	if e.IsDir() {
		return fs.SkipDir
	}
	return nil
}
