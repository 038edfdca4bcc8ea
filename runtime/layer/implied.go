package layer

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime/layer/erofs"
)

// flatPrefix begins the names of mount points of merged metadata.
const flatPrefix = "flat-"

// placed is a layer of a chain and where it is mounted.
type placed struct {
	id  digest.Digest
	dir string
}

func idsOf(stack []placed) (ids []digest.Digest) {
	for _, p := range stack {
		ids = append(ids, p.id)
	}
	return ids
}

// misleads tells whether stacking the layers, the lowest first, shows another tree than
// unpacking them one after the other. A tar may have names in directories of which it says
// nothing. Who unpacks it leaves the directories as lower layers made them, whereas
// overlayfs takes the attributes of the uppermost one.
func (s *Store) misleads(ctx context.Context, stack []placed) (bool, error) {
	key := s.merged(idsOf(stack))
	if known, ok := s.misleading.Load(key); ok {
		return known.(bool), nil
	}
	found, steps := false, maxLookup
	for i := len(stack) - 1; i > 0 && !found; i-- {
		var err error
		if found, err = s.changes(ctx, stack[i].id, stack[:i], &steps); err != nil {
			return false, err
		}
	}
	s.misleading.Store(key, found)
	return found, nil
}

// maxCompared is how many implied directories of a layer are looked up in those below it. A
// layer may have millions, and over a hundred below it. Honest ones have as many as a program
// has directories; beyond that it is merged unseen, which is right whatever lies below.
const maxCompared = 1 << 16

// maxLookup bounds what looking them up takes for all layers of an image together, in names:
// each may be looked up in all layers below its own. It is some three seconds.
const (
	maxLookup    = 1 << 23
	openingSteps = 16 // that opening a directory takes besides
)

// changes tells whether a layer, stacked on lower ones, changes a directory that it only
// implies, or has too many to tell. It takes what it does from steps.
func (s *Store) changes(ctx context.Context, id digest.Digest, lower []placed, steps *int) (bool, error) {
	paths, err := s.implied(id)
	if err != nil {
		return false, err
	}
	compared := 0
	for path := range paths {
		if compared++; compared > maxCompared || *steps < 0 {
			s.log.Info("layers are mounted merged: there are more directories that layers do not describe than are compared", "layer", id, "compared", compared-1)
			return true, nil
		}
		if err := ctx.Err(); err != nil { // there may be many
			return false, err
		}
		better, err := knownBetter(path, lower, steps)
		if err != nil {
			return false, err
		}
		if better {
			s.log.Info("layers are mounted merged: one changes directories that it does not describe", "layer", id, "path", path)
			return true, nil
		}
	}
	return false, nil
}

// implied walks through the directories of a layer that are only implied.
func (s *Store) implied(id digest.Digest) (iter.Seq[string], error) {
	path, size, err := s.Blob(id)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open layer: %w", err)
	}
	defer f.Close()
	image, err := erofs.Open(f, size)
	if err != nil {
		return nil, fmt.Errorf("read layer %s: %w", id, err)
	}
	return image.Implied(s.limits)
}

// knownBetter tells whether a lower layer says what an implied directory is like. That it
// may say so of one that a layer in between has deleted does no harm.
func knownBetter(path string, lower []placed, steps *int) (bool, error) {
	for _, p := range slices.Backward(lower) {
		*steps -= openingSteps + strings.Count(path, "/")
		fd, err := openWithin(p.dir, path)
		switch {
		case errors.Is(err, unix.ENOENT):
			continue
		case errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENOTDIR):
			return false, nil // overlayfs merges a directory with nothing else
		case err != nil:
			return false, fmt.Errorf("open directory of layer %s: %w", p.id, err)
		}
		implied, better := describes(fd)
		unix.Close(fd)
		if !implied {
			return better, nil
		}
	}
	return false, nil
}

// openWithin opens a directory of a mounted layer. Links are not followed: they are the
// image's, and would lead through the host.
func openWithin(root, path string) (int, error) {
	at, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(at)
	return unix.Openat2(at, path, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_BENEATH,
	})
}

// describes tells whether a directory of a layer is itself only implied, and else whether it
// is another than one that is. One that cannot be read may be: merging is always right.
func describes(fd int) (implied, other bool) {
	if n, err := unix.Fgetxattr(fd, erofs.ImpliedXattr, nil); err == nil && n > 0 {
		return true, false
	}
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || !erofs.IsDefault(&st) {
		return false, true
	}
	n, err := unix.Flistxattr(fd, nil)
	return false, err != nil || n > 0
}

// mountFlat mounts the merged metadata of layers, with their blobs as its devices, and
// returns where. More layers than it can have as devices are errdefs.ErrNotImplemented.
func (s *Store) mountFlat(ctx context.Context, stack []placed) (string, error) {
	ids := idsOf(stack)
	file := s.merged(ids)
	dir := s.flatTarget(file)
	release, err := s.locks.acquire(ctx, dir)
	if err != nil {
		return "", err
	}
	defer release()
	if is, err := shows(dir, file); is || err != nil {
		return dir, err
	}
	files, err := s.Flat(ctx, ids)
	if err != nil {
		return "", err
	}
	if len(files)-1 > erofs.MaxDevices {
		return "", fmt.Errorf("mount %d layers merged: more than %d: %w", len(files)-1, erofs.MaxDevices, errdefs.ErrNotImplemented)
	}
	if err := mountAnew(dir, file, func() error { return s.mountFiles(files, dir) }); err != nil {
		return "", fmt.Errorf("mount %d layers merged: %w", len(ids), err)
	}
	return dir, nil
}

// flatTarget is the mount point of a file of merged metadata.
func (s *Store) flatTarget(file string) string {
	return s.target(flatPrefix + strings.TrimSuffix(filepath.Base(file), blobSuffix))
}
