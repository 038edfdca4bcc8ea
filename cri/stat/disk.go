package stat

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/cricket-cri/cricket/runtime"
)

const (
	// quick is how long a caller waits for the first measurement of a writable layer.
	quick = 5 * time.Millisecond
	// longest is how long one layer keeps the background from those after it.
	longest = 30 * time.Second
)

// Measurer is a container whose writable layer can be measured, which takes as long as
// the layer has files. With an error the layer has at least what is returned.
type Measurer interface {
	DiskUsage(ctx context.Context) (runtime.DiskUsage, error)
}

// Live is something that exists. Layer is nil if it has no writable layer.
type Live struct {
	ID    string
	Layer Measurer
}

// disks remembers what writable layers occupy.
type disks struct {
	mu sync.Mutex
	by map[string]*runtime.DiskUsage // nil: left to the background
}

func (d *disks) get(ctx context.Context, l Live) *runtime.DiskUsage {
	d.mu.Lock()
	known, ok := d.by[l.ID]
	d.mu.Unlock()
	if ok || l.Layer == nil {
		return known
	}
	quickly, cancel := context.WithTimeout(ctx, quick)
	defer cancel()
	u, err := l.Layer.DiskUsage(quickly)
	switch {
	case err == nil:
		return d.put(l.ID, &u)
	case errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil:
		return d.put(l.ID, nil)
	}
	return nil // not there (yet); asked again next time
}

// await is get for who can wait for the first measurement until ctx ends.
func (d *disks) await(ctx context.Context, l Live) *runtime.DiskUsage {
	if known := d.get(ctx, l); known != nil || l.Layer == nil {
		return known
	}
	u, err := l.Layer.DiskUsage(ctx)
	if err != nil {
		return nil
	}
	return d.put(l.ID, &u)
}

func (d *disks) put(id string, u *runtime.DiskUsage) *runtime.DiskUsage {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.by[id] = u
	return u
}

// measure counts the layers one after the other.
func (d *disks) measure(ctx context.Context, live []Live) {
	for _, l := range live {
		if ctx.Err() != nil {
			return
		}
		if l.Layer != nil {
			d.measureOne(ctx, l)
		}
	}
}

// measureOne counts a layer. One that is not counted to the end is known to have what was
// counted of it, if that is more than what it had before: nothing hides behind many files.
func (d *disks) measureOne(ctx context.Context, l Live) {
	limited, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	u, err := l.Layer.DiskUsage(limited)
	if err != nil {
		u = d.atLeast(l.ID, u)
	}
	if err == nil || u.Inodes > 0 {
		d.put(l.ID, &u)
	}
}

// atLeast is the larger of what was found now and what is known, figure by figure.
func (d *disks) atLeast(id string, found runtime.DiskUsage) runtime.DiskUsage {
	d.mu.Lock()
	defer d.mu.Unlock()
	known := d.by[id]
	if known == nil {
		return found
	}
	if found.Bytes <= known.Bytes && found.Inodes <= known.Inodes {
		return *known
	}
	found.Bytes, found.Inodes = max(found.Bytes, known.Bytes), max(found.Inodes, known.Inodes)
	return found
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
