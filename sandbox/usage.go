package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/cgroupstat"
)

// maxLinked is how many files with several names are told apart in a writable layer: each
// is kept in memory while the layer is measured.
const maxLinked = 1 << 22

// DiskUsage walks the writable layer, which takes as long as it has files, unless the file
// system counts it anyway. A file with several names counts once. With an error the layer
// has at least what is returned: it was not walked to the end.
func (c *container) DiskUsage(ctx context.Context) (runtime.DiskUsage, error) {
	if usage, ok, err := c.counted(); ok || err != nil {
		return usage, err
	}
	t := newTally()
	err := walk(ctx, c.upper(), t.add)
	if errors.Is(err, fs.ErrNotExist) {
		return t.usage, nil
	}
	t.usage.FS = fileSystem(c.upper())
	if err == nil {
		err = t.missed
	}
	if err != nil {
		return t.usage, fmt.Errorf("measure writable layer: %w", err)
	}
	return t.usage, nil
}

// tally adds files up.
type tally struct {
	usage     runtime.DiskUsage
	linked    map[uint64]struct{} // files with several names
	maxLinked int
	missed    error // why something was not counted
}

func newTally() *tally {
	return &tally{usage: runtime.DiskUsage{At: time.Now()}, linked: map[uint64]struct{}{}, maxLinked: maxLinked}
}

func (t *tally) add(st *unix.Stat_t) {
	if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		if _, ok := t.linked[st.Ino]; ok {
			return
		}
		if len(t.linked) >= t.maxLinked {
			t.missed = fmt.Errorf("more than %d files with several names: %w", t.maxLinked, errdefs.ErrResourceExhausted)
			return
		}
		t.linked[st.Ino] = struct{}{}
	}
	t.usage.Bytes += uint64(st.Blocks) * 512
	t.usage.Inodes++
}

// fileSystem is the one that a directory lies on; nil if it cannot be asked.
func fileSystem(dir string) *runtime.FSStat {
	var fs unix.Statfs_t
	var st unix.Stat_t
	if unix.Statfs(dir, &fs) != nil || unix.Stat(dir, &st) != nil {
		return nil
	}
	return &runtime.FSStat{
		Device: cgroupstat.DeviceName(unix.Major(st.Dev), unix.Minor(st.Dev)),
		Bytes:  fs.Blocks * uint64(fs.Bsize), Inodes: fs.Files, FreeInodes: fs.Ffree,
	}
}
