package archive

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
)

// containerd is a root as containerd's own packages write it.
type containerd struct {
	root  string
	db    *bolt.DB
	meta  *metadata.DB
	ctx   context.Context
	store content.Store
}

func newContainerd(t *testing.T) *containerd {
	t.Helper()
	c := &containerd{root: t.TempDir(), ctx: namespaces.WithNamespace(t.Context(), KubernetesNamespace)}
	if err := os.MkdirAll(filepath.Dir(filepath.Join(c.root, containerdMeta)), 0o700); err != nil {
		t.Fatal(err)
	}
	store, err := local.NewStore(filepath.Join(c.root, containerdContent))
	if err != nil {
		t.Fatal(err)
	}
	if c.db, err = bolt.Open(filepath.Join(c.root, containerdMeta), 0o600, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.db.Close() })
	c.meta = metadata.NewDB(c.db, store, nil)
	if err := c.meta.Init(c.ctx); err != nil {
		t.Fatal(err)
	}
	c.store = c.meta.ContentStore()
	return c
}

func (c *containerd) blob(t *testing.T, mediaType string, raw []byte) ocispec.Descriptor {
	t.Helper()
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	if err := content.WriteBlob(c.ctx, c.store, d.Digest.String(), bytes.NewReader(raw), d); err != nil {
		t.Fatal(err)
	}
	return d
}

// image stores an image under names, as containerd's CRI does; it returns its id.
func (c *containerd) image(t *testing.T, labels map[string]string, body string, names ...string) (id, target digest.Digest) {
	t.Helper()
	layer := layerTar(t, "file", body)
	raw, _ := json.Marshal(ocispec.Image{
		Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"},
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(layer)}},
	})
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: c.blob(t, ocispec.MediaTypeImageConfig, raw),
		Layers: []ocispec.Descriptor{c.blob(t, ocispec.MediaTypeImageLayerGzip, gzipped(layer))},
	}
	doc, _ := json.Marshal(m)
	desc := c.blob(t, m.MediaType, doc)
	desc.Platform = &ocispec.Platform{OS: "linux", Architecture: "amd64"}
	absent := desc // another platform's, which containerd did not pull
	absent.Digest, absent.Platform = digest.FromString("arm"), &ocispec.Platform{OS: "linux", Architecture: "arm64"}
	doc, _ = json.Marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{absent, desc},
	})
	index := c.blob(t, ocispec.MediaTypeImageIndex, doc)
	for _, n := range append(names, m.Config.Digest.String()) {
		if _, err := metadata.NewImageStore(c.meta).Create(c.ctx, images.Image{Name: n, Target: index, Labels: labels}); err != nil {
			t.Fatal(err)
		}
	}
	return m.Config.Digest, index.Digest
}

// A node that moves from containerd has its images, with all their names and pins, under
// the ids and digests that the kubelet knows.
func TestFromContainerd(t *testing.T) {
	c := newContainerd(t)
	pause, _ := c.image(t, map[string]string{pinLabel: "pinned"}, "pause", "registry.k8s.io/pause:3.10")
	app, target := c.image(t, nil, "app", "docker.io/library/app:v1", "example.com/mirror/app:v1")
	if _, err := metadata.NewImageStore(c.meta).Create(c.ctx, images.Image{
		Name: "docker.io/library/app@" + target.String(), Target: mustTarget(t, c, "docker.io/library/app:v1"),
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenContainerd(c.root, KubernetesNamespace); !errdefs.IsUnavailable(err) {
		t.Errorf("while containerd runs: error = %v, want unavailable", err)
	}
	c.db.Close()
	s := newShop(t)
	a, err := OpenContainerd(c.root, KubernetesNamespace)
	s.take(t, a, err)
	got, err := s.Get("app:v1")
	if err != nil || got.ID != app || got.Pinned || len(got.Layers) != 1 ||
		!slices.Equal(got.RepoTags, []string{"docker.io/library/app:v1", "example.com/mirror/app:v1"}) ||
		!slices.Contains(got.RepoDigests, "docker.io/library/app@"+target.String()) {
		t.Errorf("app = %+v, %v", got, err)
	}
	if got, err := s.Get("registry.k8s.io/pause:3.10"); err != nil || got.ID != pause || !got.Pinned {
		t.Errorf("pause = %+v, %v", got, err)
	}
	if n := len(s.List()); n != 2 {
		t.Errorf("%d images, want two", n)
	}
	if _, err := OpenContainerd(c.root, "moby"); !errdefs.IsNotFound(err) {
		t.Errorf("a namespace that is not there: %v", err)
	}
}

func mustTarget(t *testing.T, c *containerd, name string) ocispec.Descriptor {
	t.Helper()
	img, err := metadata.NewImageStore(c.meta).Get(c.ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	return img.Target
}

// A layer that containerd threw away after unpacking it fails that image by name, and no
// other.
func TestFromContainerdWithoutContent(t *testing.T) {
	c := newContainerd(t)
	c.image(t, nil, "whole", "example.com/whole:v1")
	c.image(t, nil, "torn", "example.com/torn:v1")
	c.db.Close()
	gone := digest.FromBytes(gzipped(layerTar(t, "file", "torn")))
	if err := os.Remove(filepath.Join(c.root, containerdContent, blobName(gone))); err != nil {
		t.Fatal(err)
	}
	a, err := OpenContainerd(c.root, KubernetesNamespace)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	s := newShop(t)
	for _, what := range a.Images() {
		_, err := s.Import(t.Context(), what, a)
		if torn := what.Names[0] == "example.com/torn:v1"; torn != errdefs.IsNotFound(err) {
			t.Errorf("%s: error = %v", what.Names[0], err)
		}
	}
	if l := s.List(); len(l) != 1 || l[0].RepoTags[0] != "example.com/whole:v1" {
		t.Errorf("images = %+v", l)
	}
}
