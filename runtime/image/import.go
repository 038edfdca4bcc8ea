package image

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/cricket-cri/cricket/runtime/flow"
)

// Content hands out the parts of an image that comes from elsewhere than a registry.
type Content interface {
	// Open opens a manifest, configuration or layer. What it gives is checked against the
	// descriptor. Several may be open at once. Reads must fail when ctx ends.
	Open(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error)
}

// Import describes an image to be brought in from an archive or another store.
type Import struct {
	// Names the image gets: full or short references with a tag, or with the digest of
	// the target. There must be one at least.
	Names []string `json:"names"`
	// Target is the manifest, or an index that leads to it.
	Target ocispec.Descriptor `json:"target"`
	// Anonymous: no registry knows the target's digest, since it was made up for the
	// import. No name with digest comes of it then.
	Anonymous bool `json:"anonymous,omitempty"`
	// Platform to choose from an index, as in linux/arm64; empty for the node's own.
	Platform string `json:"platform,omitempty"`
	// Pinned protects the image from garbage collection.
	Pinned bool `json:"pinned,omitempty"`
}

// Import brings an image in from elsewhere than a registry, with the same checks as a
// pull. Layers that are there are not read. If it fails, what it brought in is removed;
// it can be repeated at any time.
func (s *Store) Import(ctx context.Context, what Import, from Content) (Image, error) {
	names, err := what.naming()
	if err != nil {
		return Image{}, err
	}
	i := &importing{store: s, what: what, naming: names, from: contentReader{from}, platform: s.platform}
	if what.Platform != "" {
		p, err := platforms.Parse(what.Platform)
		if err != nil {
			return Image{}, fmt.Errorf("parse platform: %w: %w", errdefs.ErrInvalidArgument, err)
		}
		i.platform = platforms.Only(p)
	}
	err = flow.Run(withLog(ctx, s.opts.Log), "import image",
		flow.Step{Name: "read manifest", Do: i.read},
		flow.Step{Name: "pin layers", Do: i.pin, Undo: i.drop},
		flow.Step{Name: "store layers", Do: i.layers},
		flow.Step{Name: "write record", Do: i.record},
	)
	if err != nil {
		return Image{}, classify(err)
	}
	s.holds.unpin(i.source.diffIDs)
	return i.image, nil
}

// naming sorts the names.
func (w Import) naming() (naming, error) {
	n := naming{pinned: w.Pinned}
	if err := checkDigest(w.Target.Digest); err != nil {
		return n, fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
	}
	add := func(list *[]string, s string) {
		if !slices.Contains(*list, s) {
			*list = append(*list, s)
		}
	}
	for _, ref := range w.Names {
		name, err := parseName(ref)
		if err != nil {
			return n, err
		}
		if name.digest != "" && name.digest != w.Target.Digest {
			return n, fmt.Errorf("name %q: %w: the image has digest %s", ref, errdefs.ErrInvalidArgument, w.Target.Digest)
		}
		if name.tag != "" {
			add(&n.tags, name.tag)
		}
		if !w.Anonymous {
			add(&n.digests, name.repoDigest(w.Target.Digest))
		}
	}
	if len(n.tags)+len(n.digests) == 0 {
		return n, fmt.Errorf("import image: %w: it needs a name", errdefs.ErrInvalidArgument)
	}
	return n, nil
}

// importing is one import.
type importing struct {
	store    *Store
	what     Import
	naming   naming
	from     contentReader
	platform platforms.MatchComparer
	source   source
	image    Image
}

func (i *importing) read(ctx context.Context) (err error) {
	defer recovered(&err)
	i.source, err = i.store.readSource(ctx, i.from, i.what.Target, i.platform)
	return err
}

func (i *importing) pin(context.Context) error {
	i.store.holds.pin(i.source.diffIDs)
	return nil
}

func (i *importing) drop(ctx context.Context) error {
	i.store.holds.unpin(i.source.diffIDs)
	return i.store.sweep(ctx)
}

func (i *importing) layers(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(i.store.opts.Parallel)
	done := map[digest.Digest]bool{}
	for n, id := range i.source.diffIDs {
		if done[id] {
			continue
		}
		done[id] = true
		group.Go(func() error {
			if err := i.layer(ctx, id, i.source.parts[n]); err != nil {
				return fmt.Errorf("layer %d: %w", n+1, err)
			}
			return nil
		})
	}
	return group.Wait()
}

func (i *importing) layer(ctx context.Context, id digest.Digest, p part) error {
	return i.store.ifMissing(ctx, id, p.Descriptor, func() error {
		blob, err := i.from.Open(ctx, p.Descriptor)
		if err != nil {
			return fmt.Errorf("open %s: %w", p.Digest, err)
		}
		defer blob.Close()
		return i.store.keepLayer(ctx, id, p, blob)
	})
}

func (i *importing) record(context.Context) (err error) {
	i.image, err = i.store.commitImage(i.source, i.naming)
	return err
}

// ifMissing brings in a layer unless it is there; nobody else brings in the same one
// meanwhile. A panic of bring is its error.
func (s *Store) ifMissing(ctx context.Context, id digest.Digest, desc ocispec.Descriptor, bring func() error) (err error) {
	defer recovered(&err)
	give, err := s.holds.take(ctx, id)
	if err != nil {
		return err
	}
	defer give()
	if s.opts.Layers.Has(id) {
		present(ctx, id, desc)
		return nil
	}
	return bring()
}

// keepLayer stores a layer in one pass: checked, inflated, kept.
func (s *Store) keepLayer(ctx context.Context, id digest.Digest, p part, blob io.Reader) error {
	watched := watchLayer(ctx, id, p.Descriptor, blob)
	checked := newVerifier(watched, p.Descriptor)
	if err := s.ingest(ctx, id, p.file, checked); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, checked); err != nil { // what lies behind the compressed data
		return err
	}
	watched.done()
	return nil
}

// ingest has the layer store take in a blob: as a file if it is to be one, or else what is
// in it.
func (s *Store) ingest(ctx context.Context, id digest.Digest, file string, checked *verifier) error {
	if file != "" {
		if err := s.opts.Layers.IngestFile(ctx, id, file, checked.want.Size, checked); err != nil {
			return fmt.Errorf("ingest %s as file %.100q: %w", checked.want.Digest, file, err)
		}
		return nil
	}
	tar, err := inflate(checked)
	if err != nil {
		return fmt.Errorf("inflate %s: %w", checked.want.Digest, checked.reason(err))
	}
	defer tar.Close()
	if err := s.opts.Layers.Ingest(ctx, id, &inflated{tar, checked, s.opts.MaxLayer, s.opts.MaxLayer}); err != nil {
		return fmt.Errorf("ingest %s: %w", checked.want.Digest, err)
	}
	return nil
}

// contentReader reads manifests and configurations of a Content.
type contentReader struct{ Content }

func (c contentReader) document(ctx context.Context, desc ocispec.Descriptor, limit int64) ([]byte, error) {
	if err := checkDocument(desc, limit); err != nil {
		return nil, err
	}
	rc, err := c.Open(ctx, desc)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	return io.ReadAll(newVerifier(rc, desc))
}
