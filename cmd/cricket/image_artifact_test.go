package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// artifactLayout writes a layout with an artifact of one file.
func artifactLayout(t *testing.T, name, content string) (dir string, id digest.Digest) {
	t.Helper()
	dir = t.TempDir()
	put := func(raw []byte) ocispec.Descriptor {
		d := ocispec.Descriptor{MediaType: "text/plain", Digest: digest.FromBytes(raw), Size: int64(len(raw))}
		path := filepath.Join(dir, "blobs/sha256", d.Digest.Encoded())
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, raw, 0o644)); err != nil {
			t.Fatal(err)
		}
		return d
	}
	document := func(v any) []byte {
		raw, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	file := put([]byte(content))
	file.Annotations = map[string]string{ocispec.AnnotationTitle: "dir/file"}
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: "application/vnd.example.model",
		Config: put([]byte("{}")), Layers: []ocispec.Descriptor{file},
	}
	m.Config.MediaType = ocispec.MediaTypeEmptyJSON
	target := put(document(m))
	target.MediaType, target.Annotations = m.MediaType, map[string]string{ocispec.AnnotationRefName: name}
	index := document(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []ocispec.Descriptor{target}})
	if err := os.WriteFile(filepath.Join(dir, ocispec.ImageIndexFile), index, 0o644); err != nil {
		t.Fatal(err)
	}
	return dir, target.Digest
}

// The tool does with an artifact what it does with images, and what it exports is the same
// artifact.
func TestArtifactCommands(t *testing.T) {
	p := newPlace(t)
	const name = "example.com/model:v1"
	layout, id := artifactLayout(t, name, strings.Repeat("weights", 2000))
	if out, err := p.cricket(t, "image import", layout); err != nil || !strings.Contains(out, id.String()) {
		t.Fatalf("import: %q, %v", out, err)
	}
	if out, err := p.cricket(t, "image ls", "--json"); err != nil || !strings.Contains(out, `"artifactType": "application/vnd.example.model"`) {
		t.Errorf("ls: %q, %v", out, err)
	}
	exported := filepath.Join(t.TempDir(), "out.tar")
	if out, err := p.cricket(t, "image export", "--output", exported, name); err != nil {
		t.Errorf("export: %q, %v", out, err)
	}
	if out, err := p.cricket(t, "verify"); err != nil || !strings.HasPrefix(out, "1 images, 1 layers") || !strings.HasSuffix(out, ": all well\n") {
		t.Errorf("verify: %q, %v", out, err)
	}
	blobs, _ := filepath.Glob(p.root + "/layers/*.erofs")
	f, err := os.OpenFile(blobs[0], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{0xff}, 5000); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if out, err := p.cricket(t, "image export", "--output", exported+"2", name); err == nil {
		t.Errorf("export of what is damaged: %q", out)
	}
	if out, err := p.cricket(t, "verify", "--repair"); err != nil || !strings.Contains(out, "needed by "+name) || !strings.Contains(out, "removed") {
		t.Errorf("repair: %q, %v", out, err)
	}
	if out, err := p.cricket(t, "image import", exported); err != nil || !strings.Contains(out, id.String()) {
		t.Errorf("import of the export: %q, %v", out, err)
	}
	if out, err := p.cricket(t, "image rm", name); err != nil || !strings.Contains(out, id.String()) {
		t.Errorf("rm: %q, %v", out, err)
	}
	if blobs, _ := filepath.Glob(p.root + "/layers/*.erofs"); len(blobs) != 0 {
		t.Errorf("left: %v", blobs)
	}
}
