package image

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math"
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
	image    ocispec.Image
	layers   []ocispec.Descriptor // lowest first, as many as diff ids
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
			if err := doc.checkImage(); err != nil {
				return src, err
			}
			src.layers, src.manifest = doc.Layers, desc.Digest
			return src, src.readConfig(ctx, from, *doc.Config, platform)
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
	var doc document
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

// choose picks the manifest that suits the platform best; among equals, the first. One
// that names no platform is taken if no other suits: its configuration will tell.
func choose(list []ocispec.Descriptor, platform platforms.MatchComparer) (ocispec.Descriptor, error) {
	var fit, vague []ocispec.Descriptor
	for _, d := range list {
		switch {
		case d.Platform == nil:
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

// checkImage refuses artifacts (OCI image specification 1.1, "Guidelines for Artifact
// Usage"): what their layers are as files, the specification leaves to each kind of them.
func (d document) checkImage() error {
	switch d.Config.MediaType {
	case ocispec.MediaTypeImageConfig, dockerConfig, "application/octet-stream":
		return nil
	}
	return fmt.Errorf("%w: not a container image but an OCI artifact of type %q, which can neither be run nor mounted as a volume: an image with the same files can",
		errdefs.ErrNotImplemented, cmp.Or(d.Artifact, d.Config.MediaType))
}

// readSource reads an image and refuses what no layer on this node can be.
func (s *Store) readSource(ctx context.Context, from documents, target ocispec.Descriptor, platform platforms.MatchComparer) (source, error) {
	src, err := readSource(ctx, from, target, platform)
	if err != nil {
		return src, err
	}
	return src, src.checkSizes(s.opts.MaxLayer)
}

func (s *source) readConfig(ctx context.Context, from documents, desc ocispec.Descriptor, platform platforms.MatchComparer) error {
	if desc.Digest.Validate() == nil && desc.Digest.Algorithm() != digest.SHA256 {
		return fmt.Errorf("read config: %w: digest %s is not sha256", errdefs.ErrFailedPrecondition, desc.Digest)
	}
	raw, err := from.document(ctx, desc, maxConfig)
	if err != nil {
		return fmt.Errorf("read config %s: %w", desc.Digest, err)
	}
	s.id, s.config = desc.Digest, raw
	if s.image, err = parseConfig(raw); err != nil {
		return fmt.Errorf("read config %s: %w", desc.Digest, err)
	}
	if p := s.image.Platform; p.OS != "" && p.Architecture != "" && !platform.Match(p) {
		return fmt.Errorf("read config %s: %w: the image is for %s, this node is %s", desc.Digest, errdefs.ErrFailedPrecondition,
			platforms.Format(p), platforms.Format(platforms.DefaultSpec()))
	}
	s.size += uint64(desc.Size)
	s.checkpoint = cmp.Or(s.checkpoint, markOf(s.image.Config.Labels))
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
		if err := checkDigest(d); err != nil {
			return img, err
		}
		if d.Algorithm() != digest.SHA256 {
			return img, fmt.Errorf("%w: diff id %s is not sha256", errdefs.ErrFailedPrecondition, d)
		}
	}
	return img, nil
}

func (s *source) checkLayers() error {
	if have, want := len(s.image.RootFS.DiffIDs), len(s.layers); have != want {
		return fmt.Errorf("check layers: %w: %d diff ids for %d layers", errdefs.ErrFailedPrecondition, have, want)
	}
	if len(s.layers) > maxLayers {
		return fmt.Errorf("check layers: %w: %d layers, at most %d", errdefs.ErrFailedPrecondition, len(s.layers), maxLayers)
	}
	for i, l := range s.layers {
		if err := checkLayer(l); err != nil {
			return fmt.Errorf("check layer %d: %w", i+1, err)
		}
		if s.size += uint64(l.Size); s.size > math.MaxInt64 { // neither number is greater, so that it cannot wrap
			return fmt.Errorf("check layers: %w: a size beyond all measure", errdefs.ErrFailedPrecondition)
		}
	}
	return nil
}

// checkSizes bounds what the manifest claims that its layers take as they are sent. Of a layer
// that is on the node already nothing else does, and by the sum the kubelet decides how much it
// collects. Formats that can be read in parts add tables to what they compress, but not as much
// again.
func (s *source) checkSizes(limit int64) error {
	for i, l := range s.layers {
		if l.Size/2 > limit {
			return fmt.Errorf("check layer %d: %w: %d bytes, compressed, of a layer of at most %d", i+1, errdefs.ErrResourceExhausted, l.Size, limit)
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
	case "application/vnd.docker.image.rootfs.foreign.diff.tar",
		"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
		"application/vnd.oci.image.layer.nondistributable.v1.tar",
		"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
		"application/vnd.oci.image.layer.nondistributable.v1.tar+zstd":
		return fmt.Errorf("%w: the layer is not distributable (%s), the registry does not have it", errdefs.ErrNotImplemented, l.MediaType)
	default:
		return fmt.Errorf("%w: layers of type %q", errdefs.ErrNotImplemented, l.MediaType)
	}
	if l.Size < 0 {
		return fmt.Errorf("%w: size %d", errdefs.ErrFailedPrecondition, l.Size)
	}
	return checkDigest(l.Digest)
}
