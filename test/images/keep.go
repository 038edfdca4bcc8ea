package images

import (
	"fmt"
	"os"
	"path/filepath"
)

// keep returns the set of that name in the cache, after build has made it in an empty
// directory if it is not there.
func (o Options) keep(name string, build func(work string) error) (*Set, error) {
	// Tools are started in other directories.
	cache, err := filepath.Abs(o.Cache)
	if err != nil {
		return nil, fmt.Errorf("find the cache of images: %w", err)
	}
	dir := filepath.Join(cache, "images", name)
	if _, err := os.Stat(filepath.Join(dir, "index.json")); err == nil {
		return Open(dir)
	}
	work := dir + ".new"
	if err := os.RemoveAll(work); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(work, 0o755); err != nil {
		return nil, err
	}
	if err := build(work); err != nil {
		return nil, err
	}
	if err := os.Rename(work, dir); err != nil {
		return nil, err
	}
	return Open(dir)
}
