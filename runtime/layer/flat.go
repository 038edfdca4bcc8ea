package layer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime/layer/erofs"
)

const (
	mergedDir    = "merged"
	mergedPrefix = "merge-"
	maxFlat      = 1024 // layers
)

// Flat returns files that make one EROFS disk of a chain of layers, lowest first, when
// they are laid one after the other; each is a multiple of Step bytes long and to be
// read only. Of one layer that is its blob. Of several the first file holds metadata
// that shows what overlayfs would show of them all, and refers to the data in the blobs
// that follow; those without data are left out. It also finds them, if there are no more
// than erofs.MaxDevices, as devices of their own.
//
// The metadata is made when it is first asked for, costs about a kilobyte for four
// files, and goes when one of the layers is removed. Concurrent calls for one chain join.
// A layer that is not there is errdefs.ErrNotFound.
func (s *Store) Flat(ctx context.Context, chain []digest.Digest) (files []string, err error) {
	chain = highest(chain)
	switch {
	case len(chain) == 0 || len(chain) > maxFlat:
		return nil, fmt.Errorf("flatten %d layers: %w", len(chain), errdefs.ErrInvalidArgument)
	case len(chain) == 1:
		path, _, err := s.Blob(chain[0])
		return []string{path}, err
	}
	for _, id := range chain {
		if _, err := name(id); err != nil {
			return nil, err
		}
	}
	file := s.merged(chain)
	release, err := s.locks.acquire(ctx, file)
	if err != nil {
		return nil, err
	}
	defer release()
	if files, err := s.flat(file, chain); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return files, err
	}
	if err := s.merge(ctx, file, chain); err != nil {
		return nil, fmt.Errorf("merge %d layers: %w", len(chain), err)
	}
	return s.flat(file, chain)
}

// highest leaves a layer that occurs more than once at its highest place, which shows
// the same tree.
func highest(chain []digest.Digest) (distinct []digest.Digest) {
	for i, id := range chain {
		if !slices.Contains(chain[i+1:], id) {
			distinct = append(distinct, id)
		}
	}
	return distinct
}

// merged is the name of the metadata for a chain.
func (s *Store) merged(chain []digest.Digest) string {
	sum := sha256.New()
	for _, id := range chain {
		sum.Write([]byte(id + "\n"))
	}
	return filepath.Join(s.root, mergedDir, hex.EncodeToString(sum.Sum(nil))+blobSuffix)
}

// flat lists the files of a disk whose metadata is there; fs.ErrNotExist if it is not,
// or not whole.
func (s *Store) flat(file string, chain []digest.Digest) ([]string, error) {
	used, size, disk, err := readMerged(file)
	if err != nil {
		return nil, err
	}
	if !slices.EqualFunc(used, chain, func(u use, id digest.Digest) bool { return u.id == id }) {
		return nil, fmt.Errorf("metadata is of other layers: %w", fs.ErrNotExist)
	}
	files := []string{file}
	for _, u := range used {
		path, bytes, err := s.Blob(u.id)
		if err != nil {
			return nil, err
		}
		if u.data {
			files = append(files, path)
			size += bytes
		}
	}
	if size != disk {
		return nil, fmt.Errorf("metadata is for a disk of %d bytes, not %d: %w", disk, size, fs.ErrNotExist)
	}
	return files, nil
}

// use is what the metadata says of a layer.
type use struct {
	id   digest.Digest
	data bool // its blob is on the disk
}

const (
	markData = "+"
	markNone = "-"
)

func encodeUses(uses []use) []byte {
	var b []byte
	for _, u := range uses {
		mark := markNone
		if u.data {
			mark = markData
		}
		b = append(b, mark+string(u.id)+"\n"...)
	}
	return b
}

// readMerged returns the layers that metadata is of, its length and that of the whole
// disk. Metadata that is torn is as good as none.
func readMerged(file string) (uses []use, size, disk int64, err error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, 0, 0, fmt.Errorf("open metadata: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, 0, 0, fmt.Errorf("stat metadata: %w", err)
	}
	if st.Size()%Step != 0 {
		return nil, 0, 0, fmt.Errorf("metadata of %d bytes: %w", st.Size(), fs.ErrNotExist)
	}
	note, disk, err := erofs.ReadNote(f, st.Size())
	if errors.Is(err, errdefs.ErrDataLoss) && !errors.Is(err, unix.EIO) {
		return nil, 0, 0, fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	if err != nil {
		return nil, 0, 0, err
	}
	for line := range strings.Lines(string(note)) {
		id, data := strings.CutPrefix(strings.TrimSuffix(line, "\n"), markData)
		uses = append(uses, use{digest.Digest(strings.TrimPrefix(id, markNone)), data})
	}
	return uses, st.Size(), disk, nil
}

// merge makes the metadata. The layers cannot be removed meanwhile.
func (s *Store) merge(ctx context.Context, file string, chain []digest.Digest) error {
	release, err := s.lockAll(ctx, chain)
	if err != nil {
		return err
	}
	defer release()
	var images []*erofs.Image
	var uses []use
	for _, id := range chain {
		path, size, err := s.Blob(id)
		if err != nil {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return fmt.Errorf("open layer: %w", err)
		}
		defer f.Close()
		image, err := erofs.Open(f, size)
		if err != nil {
			return fmt.Errorf("read layer %s: %w", id, err)
		}
		images = append(images, image)
		uses = append(uses, use{id, image.HasData()})
	}
	return s.writeMerged(ctx, file, images, encodeUses(uses))
}

func (s *Store) writeMerged(ctx context.Context, file string, images []*erofs.Image, note []byte) error {
	dir := filepath.Dir(file)
	if err := os.Mkdir(dir, 0o700); err == nil {
		if err := syncDir(s.root); err != nil {
			return err
		}
	} else if !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make directory: %w", err)
	}
	f, err := os.CreateTemp(dir, mergedPrefix)
	if err != nil {
		return fmt.Errorf("create metadata: %w", err)
	}
	defer f.Close()
	if err := s.fillMerged(ctx, f, file, images, erofs.MergeOptions{Limits: s.limits, Note: note, Align: Step}); err != nil {
		os.Remove(f.Name())
		return err
	}
	return syncDir(dir)
}

// fillMerged writes and publishes the metadata.
func (s *Store) fillMerged(ctx context.Context, f *os.File, file string, images []*erofs.Image, o erofs.MergeOptions) error {
	sum, err := hex.DecodeString(strings.TrimSuffix(filepath.Base(file), blobSuffix))
	if err != nil {
		return fmt.Errorf("name of metadata: %w", err)
	}
	copy(o.UUID[:], sum)
	var seal seal
	res, err := erofs.Merge(ctx, seal.over(f), images, o)
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w: %w", errdefs.ErrResourceExhausted, err)
	}
	if err != nil {
		return err
	}
	if err := f.Chmod(0o400); err != nil {
		return fmt.Errorf("protect metadata: %w", err)
	}
	if err := s.attach(f, &seal, res.Size); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync metadata: %w", err)
	}
	if err := os.Rename(f.Name(), file); err != nil {
		return fmt.Errorf("publish metadata: %w", err)
	}
	return nil
}

// lockAll locks layers in an order that is the same for everyone.
func (s *Store) lockAll(ctx context.Context, chain []digest.Digest) (release func(), err error) {
	var held []func()
	release = func() {
		for _, r := range held {
			r()
		}
	}
	for _, id := range slices.Sorted(slices.Values(chain)) {
		n, err := name(id)
		if err != nil {
			release()
			return nil, err
		}
		r, err := s.locks.acquire(ctx, n)
		if err != nil {
			release()
			return nil, err
		}
		held = append(held, r)
	}
	return release, nil
}

// mergedFiles lists all that is in the directory of metadata.
func (s *Store) mergedFiles() (files []string) {
	dir := filepath.Join(s.root, mergedDir)
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Error("list merged metadata", "error", err)
	}
	for _, e := range entries {
		files = append(files, filepath.Join(dir, e.Name()))
	}
	return files
}

// removeMerged removes the metadata of all chains that a layer is part of.
func (s *Store) removeMerged(id digest.Digest) error {
	for _, file := range s.mergedFiles() {
		if strings.HasPrefix(filepath.Base(file), mergedPrefix) {
			continue // under way, and not of this layer, which is locked
		}
		uses, _, _, err := readMerged(file)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err == nil && !slices.ContainsFunc(uses, func(u use) bool { return u.id == id }) {
			continue
		}
		if s.state != "" {
			if err := unmountAll(s.flatTarget(file)); err != nil {
				return err
			}
		}
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove metadata: %w", err)
		}
	}
	if s.state == "" {
		return nil
	}
	return s.unmountOrphans()
}

// cleanMerged removes metadata that is torn or whose layers are gone.
func (s *Store) cleanMerged() error {
	for _, file := range s.mergedFiles() {
		uses, _, _, err := readMerged(file)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.log.Warn("cannot read merged metadata", "file", filepath.Base(file), "error", err)
			continue
		}
		whole := err == nil && len(uses) > 0 && !strings.HasPrefix(filepath.Base(file), mergedPrefix)
		if whole && !slices.ContainsFunc(uses, func(u use) bool { return s.Lacks(u.id) }) {
			continue
		}
		s.log.Warn("remove merged metadata", "file", filepath.Base(file))
		if err := os.Remove(file); err != nil {
			return fmt.Errorf("remove metadata: %w", err)
		}
	}
	return nil
}
