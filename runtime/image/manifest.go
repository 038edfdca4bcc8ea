package image

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Media types of Docker, which the OCI's image specification does not name.
const (
	dockerManifest  = "application/vnd.docker.distribution.manifest.v2+json"
	dockerIndex     = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerConfig    = "application/vnd.docker.container.image.v1+json"
	dockerSchema1   = "application/vnd.docker.distribution.manifest.v1+json"
	dockerSchema1JW = "application/vnd.docker.distribution.manifest.v1+prettyjws"
)

// What a registry may make us hold in memory or stack up.
const (
	maxManifest = 4 << 20
	maxConfig   = 8 << 20
	maxLayers   = 500 // overlayfs stacks no more
	maxNesting  = 4   // indexes in indexes
	maxList     = 4096
)

// source is the image as the registry describes it.
type source struct {
	id       digest.Digest
	manifest digest.Digest // empty if the image was known
	config   []byte
	artifact artifact
	diffIDs  []digest.Digest // of the layers, lowest first
	parts    []part          // as many as diff ids; nil if the image was known
	size     uint64
	// checkpoint is the key of the annotation or label by which the image calls itself the
	// checkpoint of a container; empty for other images.
	checkpoint string
}

// document is what indexes and manifests look like before one knows which it is.
type document struct {
	MediaType string                   `json:"mediaType"`
	Schema    int                      `json:"schemaVersion"`
	Manifests list[ocispec.Descriptor] `json:"manifests"`
	Config    *ocispec.Descriptor      `json:"config"`
	Layers    list[ocispec.Descriptor] `json:"layers"`
	FSLayers  json.RawMessage          `json:"fsLayers"`
	Artifact  string                   `json:"artifactType"`
	// Checkpoint is a mark among the annotations.
	Checkpoint checkpointMark `json:"annotations"`

	raw []byte // all of it, as it was sent
}

// documents hands out manifests and configurations, checked.
type documents interface {
	document(ctx context.Context, desc ocispec.Descriptor, limit int64) ([]byte, error)
}

// list is an array of a document. A document of megabytes, most of it commas, would
// otherwise become hundreds of megabytes in memory.
type list[T any] []T

// UnmarshalJSON implements json.Unmarshaler.
func (l *list[T]) UnmarshalJSON(raw []byte) error {
	*l = nil
	dec := json.NewDecoder(bytes.NewReader(raw))
	switch open, err := dec.Token(); {
	case err != nil:
		return err
	case open == nil: // null
		return nil
	case open != json.Delim('['):
		return fmt.Errorf("%v where a list is expected", open)
	}
	*l = list[T]{}
	for dec.More() {
		if len(*l) == maxList {
			return fmt.Errorf("a list of more than %d elements", maxList)
		}
		var element T
		if err := dec.Decode(&element); err != nil {
			return err
		}
		*l = append(*l, element)
	}
	return nil
}

// checkDocument refuses to read what is larger than the limit or has no sound digest.
func checkDocument(desc ocispec.Descriptor, limit int64) error {
	if desc.Size < 0 || desc.Size > limit {
		return fmt.Errorf("%w: %d bytes, at most %d are read", errdefs.ErrFailedPrecondition, desc.Size, limit)
	}
	return checkDigest(desc.Digest)
}

// readSource follows a descriptor through indexes to the manifest for this platform, and
// reads the configuration.
func readSource(ctx context.Context, from documents, target ocispec.Descriptor, platform platforms.MatchComparer) (source, error) {
	var src source
	desc := target
	for range maxNesting {
		doc, err := readDocument(ctx, from, desc)
		if err != nil {
			return src, fmt.Errorf("read manifest %s: %w", desc.Digest, err)
		}
		src.size += uint64(desc.Size)
		src.checkpoint = cmp.Or(src.checkpoint, string(doc.Checkpoint))
		if doc.Config != nil {
			src.manifest = desc.Digest
			return src, src.readManifest(ctx, from, doc, platform)
		}
		next, err := choose(doc.Manifests, platform)
		if err != nil {
			return src, fmt.Errorf("read index %s: %w", desc.Digest, err)
		}
		desc = next
	}
	return src, fmt.Errorf("read index %s: %w: indexes nested deeper than %d", target.Digest, errdefs.ErrFailedPrecondition, maxNesting)
}

func readDocument(ctx context.Context, from documents, desc ocispec.Descriptor) (document, error) {
	var doc document
	switch desc.MediaType {
	case dockerSchema1, dockerSchema1JW:
		return doc, fmt.Errorf("%w: Docker image manifest schema 1 is not supported, push the image again with a current tool", errdefs.ErrNotImplemented)
	case dockerManifest, dockerIndex, ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex:
	default: // registries that do not know; the content says
		desc.MediaType = ocispec.MediaTypeImageManifest
	}
	raw, err := from.document(ctx, desc, maxManifest)
	if err != nil {
		return doc, err
	}
	return parseDocument(raw)
}

// parseDocument reads an index or a manifest.
func parseDocument(raw []byte) (document, error) {
	doc := document{raw: raw}
	if err := json.Unmarshal(raw, &doc); err != nil {
		return doc, fmt.Errorf("%w: %w", errdefs.ErrFailedPrecondition, err)
	}
	return doc, doc.check()
}

// check refuses documents that two readers could understand differently.
func (d document) check() error {
	isIndex, isManifest := d.Manifests != nil, d.Config != nil
	switch {
	case d.Schema == 1 || d.FSLayers != nil:
		return fmt.Errorf("%w: Docker image manifest schema 1 is not supported", errdefs.ErrNotImplemented)
	case isIndex && (isManifest || d.Layers != nil):
		return fmt.Errorf("%w: both index and manifest", errdefs.ErrFailedPrecondition)
	case !isIndex && !isManifest:
		return fmt.Errorf("%w: neither index nor manifest (media type %q)", errdefs.ErrFailedPrecondition, d.MediaType)
	}
	for _, other := range []string{dockerIndex, ocispec.MediaTypeImageIndex} {
		if isManifest && d.MediaType == other {
			return fmt.Errorf("%w: a manifest that calls itself an index", errdefs.ErrFailedPrecondition)
		}
	}
	for _, other := range []string{dockerManifest, ocispec.MediaTypeImageManifest} {
		if isIndex && d.MediaType == other {
			return fmt.Errorf("%w: an index that calls itself a manifest", errdefs.ErrFailedPrecondition)
		}
	}
	return nil
}

// unknownOS is what tools write that have to name a platform and know none.
const unknownOS = "unknown"

// choose picks the manifest that suits the platform best; among equals, the first. One
// that names no platform is taken if no other suits: its configuration will tell. But an
// artifact beside images is attached to them, and stands for none.
func choose(list []ocispec.Descriptor, platform platforms.MatchComparer) (ocispec.Descriptor, error) {
	var fit, vague []ocispec.Descriptor
	images := slices.ContainsFunc(list, func(d ocispec.Descriptor) bool { return d.ArtifactType == "" })
	for _, d := range list {
		switch {
		case d.Platform == nil && d.ArtifactType != "" && images:
		case d.Platform == nil || d.Platform.OS == unknownOS && len(list) == 1:
			vague = append(vague, d)
		case platform.Match(*d.Platform):
			fit = append(fit, d)
		}
	}
	slices.SortStableFunc(fit, func(a, b ocispec.Descriptor) int {
		switch {
		case platform.Less(*a.Platform, *b.Platform):
			return -1
		case platform.Less(*b.Platform, *a.Platform):
			return 1
		}
		return 0
	})
	if all := append(fit, vague...); len(all) > 0 {
		return all[0], nil
	}
	return ocispec.Descriptor{}, fmt.Errorf("%w: no image for platform %s in it", errdefs.ErrNotFound, platforms.Format(platforms.DefaultSpec()))
}

// readSource reads an image and refuses what no layer on this node can be.
func (s *Store) readSource(ctx context.Context, from documents, target ocispec.Descriptor, platform platforms.MatchComparer) (source, error) {
	src, err := readSource(ctx, from, target, platform)
	if err != nil {
		return src, err
	}
	return src, src.checkSizes(s.opts.MaxLayer)
}

// readManifest reads what a manifest describes: an image, or an artifact.
func (s *source) readManifest(ctx context.Context, from documents, doc document, platform platforms.MatchComparer) error {
	desc := *doc.Config
	raw, err := from.document(ctx, desc, maxConfig)
	if err != nil {
		return fmt.Errorf("read config %s: %w", desc.Digest, err)
	}
	s.config = raw
	s.size += uint64(desc.Size)
	if doc.isArtifact() {
		return s.readArtifact(doc)
	}
	img, err := parseConfig(raw)
	if err != nil {
		return fmt.Errorf("read config %s: %w", desc.Digest, err)
	}
	if doc.Artifact != "" && len(img.RootFS.DiffIDs) == 0 && len(doc.Layers) > 0 { // the media type is for show: no image is like that
		return s.readArtifact(doc)
	}
	return s.readImage(doc, img, platform)
}

func (s *source) readImage(doc document, img ocispec.Image, platform platforms.MatchComparer) error {
	s.id = doc.Config.Digest
	if s.id.Algorithm() != digest.SHA256 {
		return fmt.Errorf("read config: %w: digest %s is not sha256", errdefs.ErrFailedPrecondition, s.id)
	}
	if p := img.Platform; p.OS != "" && p.Architecture != "" && !platform.Match(p) {
		return fmt.Errorf("read config %s: %w: the image is for %s, this node is %s", s.id, errdefs.ErrFailedPrecondition,
			platforms.Format(p), platforms.Format(platforms.DefaultSpec()))
	}
	s.checkpoint = cmp.Or(s.checkpoint, markOf(img.Config.Labels))
	s.diffIDs, s.parts = img.RootFS.DiffIDs, tars(doc.Layers)
	return s.checkLayers()
}

// configuration is an image's, with lists of bounded length in place of two others.
type configuration struct {
	ocispec.Image
	RootFS struct {
		Type    string              `json:"type"`
		DiffIDs list[digest.Digest] `json:"diff_ids"`
	} `json:"rootfs"`
	History list[ocispec.History] `json:"history,omitempty"`
}

// parseConfig reads a configuration and checks what the rest relies on.
func parseConfig(raw []byte) (ocispec.Image, error) {
	var file configuration
	if err := json.Unmarshal(raw, &file); err != nil {
		return ocispec.Image{}, fmt.Errorf("%w: %w", errdefs.ErrFailedPrecondition, err)
	}
	img := file.Image
	img.RootFS = ocispec.RootFS{Type: file.RootFS.Type, DiffIDs: file.RootFS.DiffIDs}
	img.History = file.History
	if t := img.RootFS.Type; t != "" && t != "layers" {
		return img, fmt.Errorf("%w: rootfs of type %q", errdefs.ErrFailedPrecondition, t)
	}
	for _, d := range img.RootFS.DiffIDs {
		if err := checkDiffID(d); err != nil {
			return img, err
		}
	}
	return img, nil
}

func checkDiffID(d digest.Digest) error {
	if err := checkDigest(d); err != nil {
		return err
	}
	if d.Algorithm() != digest.SHA256 {
		return fmt.Errorf("%w: diff id %s is not sha256", errdefs.ErrFailedPrecondition, d)
	}
	return nil
}

func (s *source) checkLayers() error {
	if have, want := len(s.diffIDs), len(s.parts); have != want {
		return fmt.Errorf("check layers: %w: %d diff ids for %d layers", errdefs.ErrFailedPrecondition, have, want)
	}
	for i, l := range s.parts {
		if err := checkLayer(l.Descriptor); err != nil {
			return fmt.Errorf("check layer %d: %w", i+1, err)
		}
	}
	return s.checkParts()
}

// checkSizes bounds what the manifest claims that its layers take as they are sent. Of a layer
// that is on the node already nothing else does, and by the sum the kubelet decides how much it
// collects. Formats that can be read in parts add tables to what they compress, but not as much
// again.
func (s *source) checkSizes(limit int64) error {
	for i, p := range s.parts {
		if p.file != "" && p.Size > limit {
			return fmt.Errorf("check file %.100q: %w: %d bytes of at most %d", p.file, errdefs.ErrResourceExhausted, p.Size, limit)
		}
		if p.Size/2 > limit {
			return fmt.Errorf("check layer %d: %w: %d bytes, compressed, of a layer of at most %d", i+1, errdefs.ErrResourceExhausted, p.Size, limit)
		}
	}
	return nil
}

func checkLayer(l ocispec.Descriptor) error {
	switch l.MediaType {
	case ocispec.MediaTypeImageLayer, ocispec.MediaTypeImageLayerGzip, ocispec.MediaTypeImageLayerZstd,
		"application/vnd.docker.image.rootfs.diff.tar",
		"application/vnd.docker.image.rootfs.diff.tar.gzip",
		"application/vnd.docker.image.rootfs.diff.tar.zstd":
		return checkBlob(l)
	}
	if err := checkBlob(l); err != nil {
		return err
	}
	return fmt.Errorf("%w: layers of type %q", errdefs.ErrNotImplemented, l.MediaType)
}

// checkBlob refuses what cannot be fetched, whatever it is.
func checkBlob(l ocispec.Descriptor) error {
	switch l.MediaType {
	case "application/vnd.docker.image.rootfs.foreign.diff.tar",
		"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
		"application/vnd.oci.image.layer.nondistributable.v1.tar",
		"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
		"application/vnd.oci.image.layer.nondistributable.v1.tar+zstd":
		return fmt.Errorf("%w: the layer is not distributable (%s), the registry does not have it", errdefs.ErrNotImplemented, l.MediaType)
	}
	if l.Size < 0 {
		return fmt.Errorf("%w: size %d", errdefs.ErrFailedPrecondition, l.Size)
	}
	return checkDigest(l.Digest)
}
