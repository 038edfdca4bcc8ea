package image

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestPullByTag(t *testing.T) {
	h, k := newHub(t), newKit(t, nil)
	p := h.push("app", "v1", nil, plain("zero"), gzipped("one"), zstded("two"))
	img := k.mustPull(t, h.host+"/app:v1")

	want := []digest.Digest{p.layers[0].diffID(), p.layers[1].diffID(), p.layers[2].diffID()}
	if img.ID != p.id || !slices.Equal(img.Layers, want) || !slices.Equal(img.Config.Config.Env, []string{"IMAGE=app"}) {
		t.Errorf("image = %+v", img)
	}
	if !slices.Equal(img.RepoTags, []string{h.host + "/app:v1"}) {
		t.Errorf("tags = %v", img.RepoTags)
	}
	if !slices.Equal(img.RepoDigests, []string{h.host + "/app@" + p.manifest.Digest.String()}) {
		t.Errorf("digests = %v", img.RepoDigests)
	}
	size := p.manifest.Size + p.config.Size
	for i, l := range p.layers {
		size += p.doc.Layers[i].Size
		if got := k.layers.layers[l.diffID()]; !reflect.DeepEqual(got, l.tar) {
			t.Errorf("layer %d differs", i)
		}
	}
	if img.Size != uint64(size) {
		t.Errorf("size = %d, want %d", img.Size, size)
	}
	id := p.id.String()
	for _, ref := range []string{h.host + "/app:v1", img.RepoDigests[0], id, id[7:], id[:20], id[7:20], h.host + "/app:v1@" + p.manifest.Digest.String()} {
		if got, err := k.Get(ref); err != nil || got.ID != p.id {
			t.Errorf("get %s: %v, %v", ref, got.ID, err)
		}
	}
}

func TestPullByDigestGivesNoTag(t *testing.T) {
	h, k := newHub(t), newKit(t, nil)
	p := h.push("app", "v1", nil, gzipped("one"))
	img := k.mustPull(t, h.host+"/app:ignored@"+p.manifest.Digest.String())
	if len(img.RepoTags) != 0 || len(img.RepoDigests) != 1 || img.ID != p.id {
		t.Errorf("image = %+v", img)
	}
}

func TestPullFromIndex(t *testing.T) {
	h, k := newHub(t), newKit(t, nil)
	arm := h.push("app", "", nil, gzipped("arm"))
	amd := h.push("app", "", nil, gzipped("amd"))
	entry := func(p pushed, os, arch, variant string) ocispec.Descriptor {
		d := p.manifest
		d.Platform = &ocispec.Platform{OS: os, Architecture: arch, Variant: variant}
		return d
	}
	index := h.manifest("app", "v1", ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		Manifests: []ocispec.Descriptor{entry(arm, "unknown", "unknown", ""), entry(arm, "linux", "arm64", ""), entry(arm, "linux", "386", ""), entry(amd, "linux", "amd64", "")},
	})
	nested := h.manifest("app", "nested", dockerIndex, ocispec.Index{Manifests: []ocispec.Descriptor{index}})
	img := k.mustPull(t, h.host+"/app:v1")
	if img.ID != amd.id {
		t.Errorf("id = %s, want %s", img.ID, amd.id)
	}
	if want := h.host + "/app@" + index.Digest.String(); !slices.Equal(img.RepoDigests, []string{want}) {
		t.Errorf("digests = %v, want the index's", img.RepoDigests)
	}
	if img := k.mustPull(t, h.host+"/app:nested"); img.ID != amd.id || len(img.RepoTags) != 2 {
		t.Errorf("nested: image = %+v, index %s", img, nested.Digest)
	}
}

func TestPullDocker(t *testing.T) {
	h, k := newHub(t), newKit(t, nil)
	l := gzipped("one")
	l.mediaType = "application/vnd.docker.image.rootfs.diff.tar.gzip"
	p := h.push("app", "v1", func(_ *ocispec.Image, m *ocispec.Manifest) {
		m.MediaType = dockerManifest
		m.Config.MediaType = dockerConfig
	}, l)
	if img := k.mustPull(t, h.host+"/app:v1"); img.ID != p.id {
		t.Errorf("id = %s, want %s", img.ID, p.id)
	}
}

func TestPullTellsCompressionByContent(t *testing.T) {
	h, k := newHub(t), newKit(t, nil)
	a, b := zstded("zstd"), plain("plain")
	a.mediaType, b.mediaType = ocispec.MediaTypeImageLayerGzip, ocispec.MediaTypeImageLayerGzip
	h.push("app", "v1", nil, a, b)
	k.mustPull(t, h.host+"/app:v1")
}

func TestPullFetchesOnlyWhatIsMissing(t *testing.T) {
	h, k := newHub(t), newKit(t, nil)
	base, more := gzipped("base"), gzipped("more")
	h.push("a", "v1", nil, base)
	b := h.push("b", "v1", nil, base, more, base) // one layer twice
	k.mustPull(t, h.host+"/a:v1")
	h.fetched()
	k.mustPull(t, h.host+"/b:v1")
	if got, want := h.fetched(), []string{b.config.Digest.String(), digest.FromBytes(more.blob).String()}; !slices.Equal(got, want) {
		t.Errorf("fetched %v, want config and the new layer %v", got, want)
	}
	k.mustPull(t, h.host+"/b:v1")
	if got := h.fetched(); len(got) != 0 {
		t.Errorf("pulling again fetched %v", got)
	}
}

func TestPullMovesTag(t *testing.T) {
	h, k := newHub(t), newKit(t, nil)
	old := h.push("app", "v1", nil, gzipped("old"))
	k.mustPull(t, h.host+"/app:v1")
	young := h.push("app", "v1", nil, gzipped("young"))
	k.mustPull(t, h.host+"/app:v1")
	for range 2 {
		img, err := k.Get(old.id.String())
		if err != nil || len(img.RepoTags) != 0 || len(img.RepoDigests) != 1 {
			t.Errorf("old image = %+v, %v, want it with its digest alone", img, err)
		}
		if img, _ := k.Get(h.host + "/app:v1"); img.ID != young.id {
			t.Errorf("the tag leads to %s", img.ID)
		}
		k.reopen(t)
	}
}

func TestPullUnderSeveralNames(t *testing.T) {
	h, k := newHub(t), newKit(t, nil)
	env := func(c *ocispec.Image, _ *ocispec.Manifest) { c.Config.Env = nil }
	h.push("app", "v1", env, gzipped("one"))
	h.push("app", "v2", env, gzipped("one"))
	h.push("mirror/app", "v1", env, gzipped("one"))
	for _, ref := range []string{"/app:v1", "/app:v2", "/mirror/app:v1"} {
		k.mustPull(t, h.host+ref)
	}
	if l := k.List(); len(l) != 1 || len(l[0].RepoTags) != 3 || len(l[0].RepoDigests) != 2 {
		t.Errorf("images = %+v, want one with three tags and two digests", l)
	}
}

func TestFamiliarNames(t *testing.T) {
	for ref, want := range map[string]string{
		"busybox":                               "docker.io/library/busybox:latest",
		"me/app:1":                              "docker.io/me/app:1",
		"registry.k8s.io/pause:3.9":             "registry.k8s.io/pause:3.9",
		"localhost:5000/a":                      "localhost:5000/a:latest",
		"a:1@sha256:" + strings.Repeat("0", 64): "docker.io/library/a@sha256:" + strings.Repeat("0", 64),
	} {
		if n, err := parseName(ref); err != nil || n.full != want {
			t.Errorf("%s = %q, %v, want %q", ref, n.full, err, want)
		}
	}
	for _, ref := range []string{"", "UPPER", "a b", "a@sha256:12", "http://a/b"} {
		if n, err := parseName(ref); err == nil {
			t.Errorf("%q = %q, want an error", ref, n.full)
		}
	}
}
