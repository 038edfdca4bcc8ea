package image

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Records reads the records below the root of a store, also while another process has the
// store open: a record is replaced as a whole. All methods are safe for concurrent use.
type Records struct {
	Root string
	// Pinned are the patterns of the configuration, as in Options.
	Pinned []string
}

// Damage is a record that cannot be trusted.
type Damage struct {
	File string
	Err  error
}

// List reads and checks all records, sorted by id.
func (r Records) List() (images []Image, damaged []Damage, err error) {
	files, err := os.ReadDir(r.Root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("list image records: %w", err)
	}
	patterns := fullPatterns(r.Pinned)
	for _, f := range files {
		path := filepath.Join(r.Root, f.Name())
		if strings.HasSuffix(f.Name(), badSuffix) {
			damaged = append(damaged, Damage{path, fmt.Errorf("set aside by the daemon: %w", errdefs.ErrDataLoss)})
		}
		if !strings.HasSuffix(f.Name(), recordSuffix) {
			continue
		}
		rec, err := read(path)
		switch {
		case errors.Is(err, fs.ErrNotExist): // removed just now
		case err != nil:
			damaged = append(damaged, Damage{path, fmt.Errorf("%w: %w", errdefs.ErrDataLoss, err)})
		default:
			images = append(images, rec.image(patterns, slog.New(slog.DiscardHandler)))
		}
	}
	slices.SortFunc(images, func(a, b Image) int { return cmp.Compare(a.ID, b.ID) })
	return images, damaged, nil
}

// Documents are what is kept of an image beside its layers, byte for byte.
type Documents struct {
	Config []byte
	// Manifest is an artifact's; nil for images, whose blobs are not kept as they came.
	Manifest []byte
	// Blobs are those of the manifest.
	Blobs []Blob
}

// Blob is what has become of a blob of an artifact.
type Blob struct {
	ocispec.Descriptor
	// Layer has the blob. It is empty for the blob that stands for no content.
	Layer digest.Digest
	// File is the blob's path in the layer, whose only file it is. It is empty if the layer
	// has what was unpacked of the blob.
	File string
}

// Documents reads the documents of an image. One that is not there is errdefs.ErrNotFound.
func (r Records) Documents(id digest.Digest) (Documents, error) {
	rec, err := read(filepath.Join(r.Root, id.Encoded()+recordSuffix))
	if errors.Is(err, fs.ErrNotExist) {
		return Documents{}, fmt.Errorf("read record of image: %w: %w", errdefs.ErrNotFound, err)
	}
	if err != nil {
		return Documents{}, fmt.Errorf("read record of image: %w", err)
	}
	d := Documents{Config: rec.Config, Manifest: rec.Manifest}
	if d.Manifest == nil {
		return d, nil
	}
	src, doc, err := rec.asArtifact()
	if err != nil {
		return Documents{}, fmt.Errorf("read record of artifact: %w", err)
	}
	for _, blob := range doc.Layers {
		b := Blob{Descriptor: blob}
		if !isEmpty(blob) {
			b.Layer, b.File = src.diffIDs[0], src.parts[0].file
			src.diffIDs, src.parts = src.diffIDs[1:], src.parts[1:]
		}
		d.Blobs = append(d.Blobs, b)
	}
	return d, nil
}

// Find finds one of several images as Store.Get does: by name, id, or the beginning of an
// id. The error is ErrNotFound, or ErrInvalidArgument for digits that several ids begin
// with.
func Find(images []Image, ref string) (Image, error) {
	n, err := parseName(ref)
	hex, isPrefix := idPrefix(ref)
	var found []Image
	for _, i := range images {
		named := err == nil && (slices.Contains(i.RepoTags, n.full) || slices.Contains(i.RepoDigests, n.full))
		if named || i.ID.String() == ref {
			return i, nil
		}
		if isPrefix && strings.HasPrefix(i.ID.Encoded(), hex) {
			found = append(found, i)
		}
	}
	switch len(found) {
	case 0:
		return Image{}, fmt.Errorf("find image %q: %w", ref, errdefs.ErrNotFound)
	case 1:
		return found[0], nil
	}
	return Image{}, fmt.Errorf("find image %q: %w: %d ids begin like that", ref, errdefs.ErrInvalidArgument, len(found))
}
