package stat

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/cricket-cri/cricket/runtime"
)

// quick is how long a caller waits for the first measurement of a writable layer.
const quick = 5 * time.Millisecond

// Measurer is a container whose writable layer can be measured, which takes as long as
// the layer has files.
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
		if l.Layer == nil {
			continue
		}
		if u, err := l.Layer.DiskUsage(ctx); err == nil {
			d.put(l.ID, &u)
		}
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
