package archive

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// artifactLayout writes a layout with one artifact, as others make them: with spaces in its
// documents that nobody would write again, and digests of two kinds. change may add blobs.
func artifactLayout(t *testing.T, change func(blob func([]byte) ocispec.Descriptor, m *ocispec.Manifest)) (string, digest.Digest) {
	t.Helper()
	dir := t.TempDir()
	write := func(name string, raw []byte) {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, raw, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	put := func(algorithm digest.Algorithm, raw []byte) ocispec.Descriptor {
		d := ocispec.Descriptor{MediaType: "application/octet-stream", Digest: algorithm.FromBytes(raw), Size: int64(len(raw))}
		write(blobName(d.Digest), raw)
		return d
	}
	titled := func(d ocispec.Descriptor, title string) ocispec.Descriptor {
		d.Annotations = map[string]string{ocispec.AnnotationTitle: title}
		return d
	}
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: "application/vnd.example.model",
		Config: put(digest.SHA512, []byte(`{ "of": "the model" }`)),
		Layers: []ocispec.Descriptor{
			titled(put(digest.SHA256, bytes.Repeat([]byte("weights"), 1<<20)), "model/weights"),
			titled(put(digest.SHA512, []byte("read me")), "README"),
			titled(put(digest.SHA256, nil), "empty"),
			titled(put(digest.SHA512, []byte("read me")), "again"),
			ocispec.DescriptorEmptyJSON,
		},
	}
	put(digest.SHA256, []byte("{}"))
	m.Config.MediaType = "application/vnd.example.config"
	if change != nil {
		change(func(raw []byte) ocispec.Descriptor { return put(digest.SHA256, raw) }, &m)
	}
	raw, err := json.MarshalIndent(m, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	d := put(digest.SHA256, raw)
	d.MediaType, d.ArtifactType, d.Annotations = m.MediaType, m.ArtifactType, map[string]string{containerdName: "example.com/model:v1"}
	index, err := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []ocispec.Descriptor{d}})
	if err != nil {
		t.Fatal(err)
	}
	write(ocispec.ImageLayoutFile, []byte(`{"imageLayoutVersion":"1.0.0"}`))
	write(ocispec.ImageIndexFile, index)
	return dir, d.Digest
}

// An artifact leaves the store as it came in: every blob is the same bytes, and the one that
// imports it has the same artifact.
func TestExportOfArtifact(t *testing.T) {
	layout, id := artifactLayout(t, nil)
	s := newShop(t)
	a, err := Open(t.Context(), layout)
	first := s.take(t, a, err)[0]
	if first.ID != id || first.Artifact != "application/vnd.example.model" || len(first.Layers) != 4 {
		t.Errorf("imported: %+v", first)
	}
	dir := filepath.Join(t.TempDir(), "layout")
	if err := (Exporter{Tar: s.blobs.WriteTar}).ToDirectory(t.Context(), dir, s.exported(t, "example.com/model:v1")); err != nil {
		t.Fatal(err)
	}
	blobs := 0
	err = filepath.WalkDir(filepath.Join(layout, "blobs"), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		blobs++
		want, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(layout, path)
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, want %d, %v", name, len(got), len(want), err)
		}
		return nil
	})
	if err != nil || blobs != 6 {
		t.Errorf("%d blobs, %v", blobs, err)
	}
	var index ocispec.Index
	raw, _ := os.ReadFile(filepath.Join(dir, ocispec.ImageIndexFile))
	if err := json.Unmarshal(raw, &index); err != nil || len(index.Manifests) != 1 || index.Manifests[0].ArtifactType != first.Artifact || index.Manifests[0].Digest != id {
		t.Errorf("index = %s, %v", raw, err)
	}
	if _, err := os.Stat(filepath.Join(dir, dockerManifestFile)); !os.IsNotExist(err) {
		t.Errorf("a manifest for Docker: %v", err)
	}
	img, imageID := made(t, 1)
	a, err = Read(t.Context(), bytes.NewReader(dockerArchive(t, img, "example.com/app:v1")))
	s.take(t, a, err)
	var both bytes.Buffer
	s.export(t, &both, false, "example.com/model:v1", "example.com/app:v1")
	other := newShop(t)
	a, err = Read(t.Context(), &both)
	got := other.take(t, a, err)
	if len(got) != 2 || got[0].ID != id || got[0].Size != first.Size || got[1].ID == imageID || got[1].Artifact != "" {
		t.Errorf("imported beside an image: %+v", got)
	}
}

// What was unpacked cannot be exported as it came, and nothing else is.
func TestExportOfUnpackedArtifact(t *testing.T) {
	var packed bytes.Buffer
	sum := digest.SHA256.Digester()
	zipped := gzip.NewWriter(&packed)
	w := tar.NewWriter(io.MultiWriter(zipped, sum.Hash()))
	if err := w.WriteHeader(&tar.Header{Name: "dir/file", Size: 4, Mode: 0o640, Typeflag: tar.TypeReg}); err != nil {
		t.Fatal(err)
	}
	io.WriteString(w, "data")
	w.Close()
	zipped.Close()
	layout, _ := artifactLayout(t, func(blob func([]byte) ocispec.Descriptor, m *ocispec.Manifest) {
		d := blob(packed.Bytes())
		d.Annotations = map[string]string{
			ocispec.AnnotationTitle: "dir", "io.deis.oras.content.unpack": "true", "io.deis.oras.content.digest": sum.Digest().String(),
		}
		m.Layers = append(m.Layers, d)
	})
	s := newShop(t)
	a, err := Open(t.Context(), layout)
	got := s.take(t, a, err)[0]
	if last := got.Layers[len(got.Layers)-1]; last != sum.Digest() || !bytes.Contains(s.tar(t, last), []byte("data")) {
		t.Errorf("imported: %+v", got)
	}
	err = (Exporter{Tar: s.blobs.WriteTar}).ToTar(t.Context(), io.Discard, s.exported(t, "example.com/model:v1"))
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "registry") {
		t.Errorf("error = %v", err)
	}
}

// A damaged file is not exported under its digest.
func TestExportOfDamagedArtifact(t *testing.T) {
	layout, _ := artifactLayout(t, nil)
	s := newShop(t)
	a, err := Open(t.Context(), layout)
	s.take(t, a, err)
	other := func(e Exported) []Exported {
		e.Documents.Blobs[0].Layer = e.Documents.Blobs[1].Layer
		e.Documents.Blobs[0].File = e.Documents.Blobs[1].File
		return []Exported{e}
	}
	err = (Exporter{Tar: s.blobs.WriteTar}).ToTar(t.Context(), io.Discard, other(s.exported(t, "example.com/model:v1")[0]))
	if !errors.Is(err, errdefs.ErrDataLoss) {
		t.Errorf("error = %v", err)
	}
}
