package archive

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cricket-cri/cricket/runtime/image"
)

// storedAs is the annotation of a manifest that says which image of the node's store it
// was made of: its layers are packed anew, which gives it another id.
const storedAs = "cricket.image.id"

// Exported is an image or an artifact to be written.
type Exported struct {
	ID    digest.Digest
	Names []string // full, with tag
	// Documents are those that the store has.
	Documents image.Documents
	Layers    []digest.Digest
}

// Exporter says where images are written from and how.
type Exporter struct {
	// Tar writes a layer as a tar (layer.Blobs.WriteTar).
	Tar func(ctx context.Context, id digest.Digest, to io.Writer) error
	// Plain leaves layers uncompressed.
	Plain bool
	// Report, if set, is told how many bytes of a layer have been packed; whole at its end.
	Report func(id digest.Digest, bytes int64, whole bool)
}

// target is what a layout is written to. Names are relative.
type target interface {
	// put takes a file whose content has been packed into f, which it may keep.
	put(name string, f *os.File, size int64) error
	write(name string, raw []byte) error
	// scratch makes a file for packing.
	scratch() (*os.File, error)
}

// ToDirectory writes an OCI layout into a directory, which must be absent or empty.
func (e Exporter) ToDirectory(ctx context.Context, dir string, images []Exported) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("write layout: %w", err)
	}
	if list, err := os.ReadDir(dir); err != nil || len(list) > 0 {
		return errors.Join(fmt.Errorf("write layout: %w: %s is not empty", errdefs.ErrAlreadyExists, dir), err)
	}
	return e.export(ctx, layoutDir(dir), images)
}

// ToTar writes a tar with an OCI layout that is a Docker archive as well. Layers pass
// through temporary files, one after the other.
func (e Exporter) ToTar(ctx context.Context, to io.Writer, images []Exported) error {
	t := &layoutTar{tar.NewWriter(to)}
	if err := e.export(ctx, t, images); err != nil {
		return err
	}
	if err := t.w.Close(); err != nil {
		return fmt.Errorf("write layout: %w", err)
	}
	return nil
}

// exporting is one export.
type exporting struct {
	Exporter
	to     target
	layers map[digest.Digest]packed // by the stored layer
	blobs  map[digest.Digest]bool   // written
	index  ocispec.Index
	docker []dockerImage
}

// packed is a layer as it is exported.
type packed struct {
	desc   ocispec.Descriptor
	diffID digest.Digest
}

func (e Exporter) export(ctx context.Context, to target, images []Exported) error {
	x := &exporting{Exporter: e, to: to, layers: map[digest.Digest]packed{}, blobs: map[digest.Digest]bool{}}
	x.index.Versioned, x.index.MediaType = specs.Versioned{SchemaVersion: 2}, ocispec.MediaTypeImageIndex
	for _, img := range images {
		add := x.image
		if img.Documents.Manifest != nil {
			add = x.artifact
		}
		if err := add(ctx, img); err != nil {
			return fmt.Errorf("export image %s: %w", img.ID, err)
		}
	}
	return x.finish()
}

func (x *exporting) image(ctx context.Context, img Exported) error {
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Annotations: map[string]string{storedAs: img.ID.String()},
	}
	d := dockerImage{RepoTags: img.Names}
	var diffIDs []digest.Digest
	for i, id := range img.Layers {
		p, err := x.layer(ctx, id)
		if err != nil {
			return fmt.Errorf("layer %d: %w", i+1, err)
		}
		m.Layers = append(m.Layers, p.desc)
		diffIDs = append(diffIDs, p.diffID)
		d.Layers = append(d.Layers, blobName(p.desc.Digest))
	}
	config, err := withLayers(img.Documents.Config, diffIDs)
	if err != nil {
		return err
	}
	if m.Config, err = x.document(ocispec.MediaTypeImageConfig, config); err != nil {
		return err
	}
	d.Config = blobName(m.Config.Digest)
	raw, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("make manifest: %w", err)
	}
	desc, err := x.document(m.MediaType, raw)
	if err != nil {
		return err
	}
	x.docker = append(x.docker, d)
	x.list(desc, config, img.Names)
	return nil
}

// list enters an image into the index, with its platform.
func (x *exporting) list(desc ocispec.Descriptor, config []byte, names []string) {
	var p ocispec.Platform
	if json.Unmarshal(config, &p) == nil && p.OS != "" {
		desc.Platform = &p
	}
	x.enter(desc, names)
}

// enter adds to the index, once for each name.
func (x *exporting) enter(desc ocispec.Descriptor, names []string) {
	if len(names) == 0 {
		x.index.Manifests = append(x.index.Manifests, desc)
	}
	for _, n := range names {
		desc.Annotations = map[string]string{containerdName: n}
		if ref, err := reference.ParseNormalizedNamed(n); err == nil {
			if tagged, ok := ref.(reference.Tagged); ok {
				desc.Annotations[ocispec.AnnotationRefName] = tagged.Tag()
			}
		}
		x.index.Manifests = append(x.index.Manifests, desc)
	}
}

// withLayers is the configuration with other diff ids. Everything else stays.
func withLayers(config []byte, diffIDs []digest.Digest) ([]byte, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(config, &fields); err != nil {
		return nil, fmt.Errorf("read configuration: %w: %w", errdefs.ErrDataLoss, err)
	}
	raw, err := json.Marshal(ocispec.RootFS{Type: "layers", DiffIDs: diffIDs})
	if err != nil {
		return nil, fmt.Errorf("make configuration: %w", err)
	}
	fields["rootfs"] = raw
	return json.Marshal(fields)
}

func (x *exporting) document(mediaType string, raw []byte) (ocispec.Descriptor, error) {
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	if x.blobs[d.Digest] {
		return d, nil
	}
	x.blobs[d.Digest] = true
	return d, x.to.write(blobName(d.Digest), raw)
}

// layer packs a layer once, however many images have it.
func (x *exporting) layer(ctx context.Context, id digest.Digest) (packed, error) {
	if p, ok := x.layers[id]; ok {
		return p, nil
	}
	f, err := x.to.scratch()
	if err != nil {
		return packed{}, fmt.Errorf("pack layer: %w", err)
	}
	defer os.Remove(f.Name()) // but where it was moved away
	defer f.Close()
	p, err := x.pack(ctx, id, f)
	if err != nil {
		return packed{}, fmt.Errorf("pack layer: %w", err)
	}
	if !x.blobs[p.desc.Digest] { // two stored layers may be one when they are packed
		x.blobs[p.desc.Digest] = true
		if err := x.to.put(blobName(p.desc.Digest), f, p.desc.Size); err != nil {
			return packed{}, err
		}
	}
	x.layers[id] = p
	return p, nil
}

func (x *exporting) pack(ctx context.Context, id digest.Digest, f *os.File) (packed, error) {
	blob, diff := digest.SHA256.Digester(), digest.SHA256.Digester()
	size := &count{}
	out := io.MultiWriter(f, blob.Hash(), size)
	p := packed{desc: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer}}
	var compressed io.WriteCloser
	if !x.Plain {
		p.desc.MediaType = ocispec.MediaTypeImageLayerGzip
		compressed = gzip.NewWriter(out)
		out = compressed
	}
	seen := &count{report: func(n int64) {
		if x.Report != nil {
			x.Report(id, n, false)
		}
	}}
	if err := x.Tar(ctx, id, io.MultiWriter(out, diff.Hash(), seen)); err != nil {
		return p, err
	}
	if compressed != nil {
		if err := compressed.Close(); err != nil {
			return p, err
		}
	}
	if x.Report != nil {
		x.Report(id, seen.n, true)
	}
	p.desc.Digest, p.desc.Size, p.diffID = blob.Digest(), size.n, diff.Digest()
	return p, nil
}

// count counts what is written.
type count struct {
	n      int64
	last   time.Time
	report func(int64)
}

func (c *count) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	if now := time.Now(); c.report != nil && now.Sub(c.last) > 100*time.Millisecond {
		c.last = now
		c.report(c.n)
	}
	return len(p), nil
}

func (x *exporting) finish() error {
	layout, err := json.Marshal(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
	if err != nil {
		return fmt.Errorf("make layout: %w", err)
	}
	index, err := json.Marshal(x.index)
	if err != nil {
		return fmt.Errorf("make index: %w", err)
	}
	docker, err := json.Marshal(x.docker)
	if err != nil {
		return fmt.Errorf("make Docker's manifest: %w", err)
	}
	if err := x.to.write(ocispec.ImageLayoutFile, layout); err != nil {
		return err
	}
	if x.docker != nil { // Docker knows no artifacts
		if err := x.to.write(dockerManifestFile, docker); err != nil {
			return err
		}
	}
	return x.to.write(ocispec.ImageIndexFile, index)
}

// layoutDir is a directory that becomes a layout: the index comes last.
type layoutDir string

func (d layoutDir) scratch() (*os.File, error) { return os.CreateTemp(string(d), ".layer-") }

func (d layoutDir) put(name string, f *os.File, _ int64) error {
	path := filepath.Join(string(d), name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	err := errors.Join(f.Chmod(0o644), f.Sync())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

func (d layoutDir) write(name string, raw []byte) error {
	path := filepath.Join(string(d), name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := os.WriteFile(path, raw, 0o644); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// layoutTar is a tar that becomes one.
type layoutTar struct{ w *tar.Writer }

func (t *layoutTar) scratch() (*os.File, error) { return os.CreateTemp("", "cricket-layer-") }

func (t *layoutTar) header(name string, size int64) error {
	err := t.w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: size, ModTime: time.Unix(0, 0)})
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

func (t *layoutTar) put(name string, f *os.File, size int64) error {
	if err := t.header(name, size); err != nil {
		return err
	}
	if _, err := io.Copy(t.w, io.NewSectionReader(f, 0, size)); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

func (t *layoutTar) write(name string, raw []byte) error {
	if err := t.header(name, int64(len(raw))); err != nil {
		return err
	}
	if _, err := t.w.Write(raw); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}
