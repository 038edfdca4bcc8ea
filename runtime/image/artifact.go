package image

import (
	"cmp"
	"fmt"
	"math"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Annotations of an artifact's blobs, beside the title of the OCI: the name that the model
// specification of the CNCF gives, and ORAS' for a directory that it has packed into a tar.
const (
	modelFile     = "org.cncf.model.filepath"
	orasUnpack    = "io.deis.oras.content.unpack"
	orasTarDigest = "io.deis.oras.content.digest"
)

// artifact is what makes a source one. It is zero for images.
type artifact struct {
	kind     string // its type
	manifest []byte // byte for byte; its digest is the id
}

// part is a blob that becomes a layer, as the manifest describes it.
type part struct {
	ocispec.Descriptor
	// file is the path that the blob has in the layer as a file, if it is not a tar.
	file string
}

// tars are the parts of images.
func tars(layers []ocispec.Descriptor) []part {
	parts := make([]part, 0, len(layers))
	for _, l := range layers {
		parts = append(parts, part{Descriptor: l})
	}
	return parts
}

// isArtifact decides by the configuration's media type, as the OCI image specification does
// ("Guidelines for Artifact Usage"): an artifact says artifactType, or has the configuration
// of something else than an image. Images may say artifactType, too. Media types that
// images have for want of a better one are an image's where no artifactType contradicts.
func (d document) isArtifact() bool {
	switch d.Config.MediaType {
	case ocispec.MediaTypeImageConfig, dockerConfig:
		return false
	case "", "application/octet-stream":
		return d.Artifact != ""
	}
	return true
}

// readArtifact makes layers of an artifact's blobs: one of each, with the blob as its only
// file, or with what is in the blob if that says that it is to be unpacked.
func (s *source) readArtifact(doc document) error {
	s.artifact = artifact{kind: cmp.Or(doc.Artifact, doc.Config.MediaType), manifest: doc.raw}
	s.id = s.manifest
	if s.id.Algorithm() != digest.SHA256 {
		return fmt.Errorf("%w: digest %s is not sha256", errdefs.ErrFailedPrecondition, s.id)
	}
	s.diffIDs, s.parts = []digest.Digest{}, []part{}
	taken := names{}
	for i, blob := range doc.Layers {
		if isEmpty(blob) {
			continue
		}
		id, p, err := artifactPart(blob, &taken)
		if err != nil {
			return fmt.Errorf("check blob %d of the artifact: %w", i+1, err)
		}
		s.diffIDs, s.parts = append(s.diffIDs, id), append(s.parts, p)
	}
	if err := taken.collide(); err != nil {
		return fmt.Errorf("check blobs of the artifact: %w", err)
	}
	return s.checkParts()
}

// isEmpty finds the blob that stands for none in artifacts that have no content.
func isEmpty(blob ocispec.Descriptor) bool {
	empty := ocispec.DescriptorEmptyJSON
	return blob.MediaType == empty.MediaType && blob.Digest == empty.Digest && blob.Size == empty.Size && givenName(blob) == ""
}

// givenName is what the blob's annotations call it.
func givenName(blob ocispec.Descriptor) string {
	return cmp.Or(blob.Annotations[ocispec.AnnotationTitle], blob.Annotations[modelFile])
}

// artifactPart says what becomes of a blob and which layer that is.
func artifactPart(blob ocispec.Descriptor, names *names) (digest.Digest, part, error) {
	if err := checkBlob(blob); err != nil {
		return "", part{}, err
	}
	name := cmp.Or(givenName(blob), blob.Digest.Algorithm().String()+"-"+blob.Digest.Encoded()) // as Podman has it
	if err := checkFileName(name); err != nil {
		return "", part{}, err
	}
	if blob.Annotations[orasUnpack] != "true" {
		names.files = append(names.files, name)
		return fileID(name, blob.Digest), part{blob, name}, nil
	}
	names.directories = append(names.directories, name)
	id := digest.Digest(blob.Annotations[orasTarDigest])
	if err := checkDiffID(id); err != nil {
		return "", part{}, fmt.Errorf("%q is to be unpacked, and %s does not say the tar's digest: %w", name, orasTarDigest, err)
	}
	return id, part{Descriptor: blob}, nil
}

// fileID names the layer that has a blob as the only file, at that path. It is the digest
// of what no tar can be: too short for one, and not empty.
func fileID(name string, blob digest.Digest) digest.Digest {
	return digest.FromString("cricket artifact file 1\n" + digest.FromString(name).String() + "\n" + blob.String() + "\n")
}

const (
	maxFilePath = 4095 // PATH_MAX without the end
	maxFileName = 255  // NAME_MAX
	whiteout    = ".wh."
)

// checkFileName wants the name of a file, or its path by directories: nothing that leads
// anywhere else, can be written in two ways, or means a deletion in a layer.
func checkFileName(name string) error {
	bad := func(why string) error {
		return fmt.Errorf("%w: the name %.100q %s", errdefs.ErrInvalidArgument, name, why)
	}
	switch {
	case len(name) > maxFilePath:
		return bad(fmt.Sprintf("has %d bytes, at most %d are possible", len(name), maxFilePath))
	case strings.ContainsRune(name, 0):
		return bad("has a NUL")
	case !filepath.IsLocal(name) || name == ".":
		return bad("leads out of the artifact, or to no file in it")
	case path.Clean(name) != name:
		return bad("is not the shortest way to write that path, " + fmt.Sprintf("%.100q", path.Clean(name)))
	}
	for p := range strings.SplitSeq(name, "/") {
		if len(p) > maxFileName {
			return bad(fmt.Sprintf("has a component of %d bytes, at most %d are possible", len(p), maxFileName))
		}
		if strings.HasPrefix(p, whiteout) {
			return bad("has a component that begins with " + whiteout + ", which deletes files in layers")
		}
	}
	return nil
}

// names are those that the blobs of an artifact have.
type names struct {
	files, directories []string // what is unpacked has its files in directories
}

// collide refuses two blobs of one name, and a file in the place of another's directory.
// What is unpacked may bring more into a directory, as layers do.
func (n names) collide() error {
	seen := map[string]bool{}
	for _, name := range slices.Concat(n.files, n.directories) {
		if seen[name] {
			return fmt.Errorf("%w: two have the name %.100q", errdefs.ErrInvalidArgument, name)
		}
		seen[name] = true
	}
	files := slices.Clone(n.files)
	for i := range files {
		files[i] += "/"
	}
	slices.Sort(files) // whatever lies below a name follows right after it
	last := ""
	for _, f := range files {
		if last != "" && strings.HasPrefix(f, last) {
			return fmt.Errorf("%w: %.100q is a file, and the directory of %.100q", errdefs.ErrInvalidArgument,
				strings.TrimSuffix(last, "/"), strings.TrimSuffix(f, "/"))
		}
		last = f
	}
	return nil
}

// checkParts bounds the layers of a source and what they take together.
func (s *source) checkParts() error {
	if len(s.parts) > maxLayers {
		return fmt.Errorf("check layers: %w: %d layers, at most %d", errdefs.ErrFailedPrecondition, len(s.parts), maxLayers)
	}
	for _, p := range s.parts {
		if s.size += uint64(p.Size); s.size > math.MaxInt64 { // neither number is greater, so that it cannot wrap
			return fmt.Errorf("check layers: %w: a size beyond all measure", errdefs.ErrFailedPrecondition)
		}
	}
	return nil
}
