package archive

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cricket-cri/cricket/runtime/image"
)

// containerdName is the annotation in which containerd, nerdctl and Docker write an
// image's whole name.
const containerdName = "io.containerd.image.name"

// readLayout reads index.json of an OCI layout.
func (a *Archive) readLayout() error {
	var index ocispec.Index
	if err := a.decode(ocispec.ImageIndexFile, &index); err != nil {
		return err
	}
	for _, d := range index.Manifests {
		if err := d.Digest.Validate(); err != nil {
			return fmt.Errorf("read %s: %w: %w", ocispec.ImageIndexFile, errdefs.ErrInvalidArgument, err)
		}
		if d.Annotations["vnd.docker.reference.type"] != "" {
			continue // an attestation
		}
		a.offer(ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}, nameOf(d.Annotations))
	}
	return nil
}

// offer adds an image, or a name of one that is there.
func (a *Archive) offer(target ocispec.Descriptor, names ...string) {
	i := slices.IndexFunc(a.images, func(i image.Import) bool { return i.Target.Digest == target.Digest })
	if i < 0 {
		a.images = append(a.images, image.Import{Target: target})
		i = len(a.images) - 1
	}
	for _, n := range names {
		if n != "" && !slices.Contains(a.images[i].Names, n) {
			a.images[i].Names = append(a.images[i].Names, n)
		}
	}
}

// nameOf is the whole name in an entry's annotations. The OCI's own is a mere tag more
// often than not, which names nothing.
func nameOf(annotations map[string]string) string {
	if n := annotations[containerdName]; n != "" {
		return n
	}
	if n := annotations[ocispec.AnnotationRefName]; strings.ContainsAny(n, "/:") {
		return n
	}
	return ""
}

// dockerManifestFile describes Docker archives: what `docker save` and `podman save` write.
const dockerManifestFile = "manifest.json"

type dockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// readDocker reads manifest.json and makes the manifests that Docker archives lack.
func (a *Archive) readDocker() error {
	var list []dockerImage
	if err := a.decode(dockerManifestFile, &list); err != nil {
		return err
	}
	for _, d := range list {
		raw, err := a.document(d.Config)
		if err != nil {
			return fmt.Errorf("read configuration: %w: %w", errdefs.ErrInvalidArgument, err)
		}
		target, err := a.makeManifest(d, raw)
		if err != nil {
			return fmt.Errorf("read image %s: %w", d.Config, err)
		}
		a.offer(target, d.RepoTags...)
	}
	for i := range a.images {
		a.images[i].Anonymous = true
	}
	return nil
}

func (a *Archive) makeManifest(d dockerImage, rawConfig []byte) (ocispec.Descriptor, error) {
	var config ocispec.Image
	if err := json.Unmarshal(rawConfig, &config); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
	}
	if len(config.RootFS.DiffIDs) != len(d.Layers) {
		return ocispec.Descriptor{}, fmt.Errorf("%w: %d diff ids for %d layers", errdefs.ErrInvalidArgument, len(config.RootFS.DiffIDs), len(d.Layers))
	}
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(rawConfig), Size: int64(len(rawConfig))},
	}
	a.made[m.Config.Digest] = rawConfig
	for i, name := range d.Layers {
		desc, err := a.layer(name, config.RootFS.DiffIDs[i])
		if err != nil {
			return ocispec.Descriptor{}, fmt.Errorf("layer %d: %w", i+1, err)
		}
		a.names[desc.Digest] = name
		m.Layers = append(m.Layers, desc)
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("make manifest: %w", err)
	}
	target := ocispec.Descriptor{MediaType: m.MediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	a.made[target.Digest] = raw
	return target, nil
}

// layer describes a layer's file. Mostly they are plain tars, whose digest the
// configuration says; others have to be read for it.
func (a *Archive) layer(name string, diffID digest.Digest) (ocispec.Descriptor, error) {
	f, size, err := a.files.open(name)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
	}
	defer f.Close()
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: diffID, Size: size}
	head := make([]byte, 4)
	if _, err := io.ReadFull(f, head); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return desc, err
	}
	switch string(head[:2]) {
	case "\x1f\x8b":
		desc.MediaType = ocispec.MediaTypeImageLayerGzip
	case "\x28\xb5":
		desc.MediaType = ocispec.MediaTypeImageLayerZstd
	default:
		return desc, nil
	}
	sum := digest.SHA256.Digester()
	sum.Hash().Write(head)
	if _, err := io.Copy(sum.Hash(), f); err != nil {
		return desc, err
	}
	desc.Digest = sum.Digest()
	return desc, nil
}
