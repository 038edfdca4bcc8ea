package sandbox

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/rmtree"
)

// makeLayerDir makes the directory of a container's writable layer together with the
// name of its owner.
func (k *Kernel) makeLayerDir(id, owner string) error {
	half, dir := k.layerDir(newPrefix+id), k.layerDir(id)
	if err := os.Mkdir(half, 0o700); err != nil {
		return err
	}
	var err error
	if k.opts.Quota != nil {
		err = k.opts.Quota.Assign(half)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(half, ownerPrefix+owner), nil, 0o600)
	}
	if err == nil {
		err = os.Rename(half, dir)
	}
	if err != nil {
		return errors.Join(err, k.withoutQuota(half, rmtree.Remove))
	}
	return nil
}

// removeHalfLayers removes directories that a killed daemon did not finish.
func (k *Kernel) removeHalfLayers() error {
	names, err := readNames(k.layerDir(""))
	for _, name := range names {
		if strings.HasPrefix(name, newPrefix) {
			err = errors.Join(err, k.withoutQuota(k.layerDir(name), rmtree.Remove))
		}
	}
	return err
}

// withoutQuota removes a directory of a writable layer, and frees its project.
func (k *Kernel) withoutQuota(dir string, remove func(string) error) error {
	if k.opts.Quota == nil {
		return remove(dir)
	}
	free := k.opts.Quota.Release(dir)
	if err := remove(dir); err != nil {
		return err
	}
	free()
	return nil
}

// counted is what the file system itself counts of a writable layer; ok is false for one
// that it does not count.
func (c *container) counted() (usage runtime.DiskUsage, ok bool, err error) {
	if c.pod.driver.opts.Quota == nil {
		return usage, false, nil
	}
	u, err := c.pod.driver.opts.Quota.Usage(c.pod.driver.layerDir(c.id))
	if errdefs.IsNotFound(err) || errors.Is(err, os.ErrNotExist) {
		return usage, false, nil
	}
	if err != nil {
		return usage, false, err
	}
	// Below the limit some file systems show it as their own size.
	fs := fileSystem(c.pod.driver.layerDir(""))
	return runtime.DiskUsage{At: time.Now(), Bytes: u.Bytes, Inodes: u.Inodes, FS: fs}, true, nil
}
