package template

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/cricket-cri/cricket/vmsandbox/disk"
)

// disks is in memory.
type disks struct {
	mu     sync.Mutex
	taken  map[string][]string
	copied int
}

func (d *disks) Take(_ context.Context, owner, name string) (string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.taken[owner] = append(d.taken[owner], name)
	return "/disks/" + owner + "/" + name, nil
}

func (d *disks) Copy(owner, name string, p *disk.Pattern) (string, error) {
	if p == nil {
		return "", errors.New("nothing to copy")
	}
	d.mu.Lock()
	d.copied++
	d.mu.Unlock()
	return d.Take(context.Background(), owner, name)
}

func (d *disks) Read(owner, _ string) (*disk.Pattern, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.taken[owner]) == 0 {
		return nil, errors.New("no such disk")
	}
	return &disk.Pattern{}, nil
}

func (d *disks) Remove(owner string, _ ...string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.taken, owner)
	return nil
}

func (d *disks) Owners() (owners []string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for o := range d.taken {
		owners = append(owners, o)
	}
	slices.Sort(owners)
	return owners, nil
}
