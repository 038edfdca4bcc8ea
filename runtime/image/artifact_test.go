package image

import (
	"bytes"
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cricket-cri/cricket/runtime/flow"
)

const modelType = "application/vnd.example.model"

// blob is one that is to be pushed as a part of an artifact.
type blob struct {
	title, content string
	annotations    map[string]string
}

// pushArtifact makes an artifact of blobs; change may spoil it.
func (h *hub) pushArtifact(repo, tag string, change func(*ocispec.Manifest), blobs ...blob) ocispec.Descriptor {
	doc := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		ArtifactType: modelType, Config: h.blob(repo, []byte("{}")), Layers: []ocispec.Descriptor{},
	}
	doc.Config.MediaType = ocispec.MediaTypeEmptyJSON
	for _, b := range blobs {
		d := h.blob(repo, []byte(b.content))
		d.MediaType = "application/octet-stream"
		d.Annotations = maps.Clone(b.annotations)
		if b.title != "" {
			if d.Annotations == nil {
				d.Annotations = map[string]string{}
			}
			d.Annotations[ocispec.AnnotationTitle] = b.title
		}
		doc.Layers = append(doc.Layers, d)
	}
	if change != nil {
		change(&doc)
	}
	return h.manifest(repo, tag, doc.MediaType, doc)
}

// files are what the layers of an image hold, the lowest first: name and content of files,
// and tars.
func (k *kit) files(img Image) (files []string) {
	for _, l := range img.Layers {
		files = append(files, string(k.layers.layers[l]))
	}
	return files
}

// directory is one that ORAS has packed.
func directory(title string, l layer) blob {
	return blob{title, string(l.blob), map[string]string{orasUnpack: "true", orasTarDigest: l.diffID().String()}}
}

// TestArtifacts pulls artifacts of every form, and finds them as images are found.
func TestArtifacts(t *testing.T) {
	h, k := newHub(t), newKit(t, nil)
	raw := "raw: " + noise(1<<16)
	packed := gzipped("packed")
	for tag, c := range map[string]struct {
		change func(*ocispec.Manifest)
		blobs  []blob
		kind   string
		want   []string
	}{
		"files":     {nil, []blob{{title: "a", content: "A"}, {title: "b/c/d", content: raw}, {title: "b/c/e"}}, modelType, []string{"a\nA", "b/c/d\n" + raw, "b/c/e\n"}},
		"by-digest": {nil, []blob{{content: "A"}}, modelType, []string{"sha256-" + digest.FromString("A").Encoded() + "\nA"}},
		"model": {nil, []blob{{content: "A", annotations: map[string]string{modelFile: "weights/1"}}}, modelType,
			[]string{"weights/1\nA"}},
		"no-tar":    {nil, []blob{{title: "layer.tgz", content: string(packed.blob)}}, modelType, []string{"layer.tgz\n" + string(packed.blob)}},
		"directory": {nil, []blob{{title: "a", content: "A"}, directory("dir", packed)}, modelType, []string{"a\nA", string(packed.tar)}},
		"nothing": {func(m *ocispec.Manifest) { m.Layers = []ocispec.Descriptor{ocispec.DescriptorEmptyJSON} }, nil,
			modelType, nil},
		"no-layers": {nil, nil, modelType, nil},
		"type-of-config": {func(m *ocispec.Manifest) {
			m.ArtifactType, m.Config.MediaType = "", "application/vnd.cncf.helm.config.v1+json"
		},
			[]blob{{title: "chart", content: "A"}}, "application/vnd.cncf.helm.config.v1+json", []string{"chart\nA"}},
		"config-of-image": {func(m *ocispec.Manifest) { m.Config.MediaType = ocispec.MediaTypeImageConfig },
			[]blob{{title: "a", content: "A"}}, modelType, []string{"a\nA"}},
		"config-of-bytes": {func(m *ocispec.Manifest) { m.Config.MediaType = "application/octet-stream" },
			[]blob{{title: "a", content: "A"}}, modelType, []string{"a\nA"}},
	} {
		t.Run(tag, func(t *testing.T) {
			d := h.pushArtifact("app", tag, c.change, c.blobs...)
			name := h.host + "/app:" + tag
			img := k.mustPull(t, name)
			if img.ID != d.Digest || img.Artifact != c.kind || !slices.Equal(img.RepoTags, []string{name}) ||
				!slices.Equal(img.RepoDigests, []string{h.host + "/app@" + d.Digest.String()}) || img.Config.OS != "" {
				t.Errorf("image = %+v", img)
			}
			size := uint64(d.Size) + 2
			for _, b := range c.blobs {
				size += uint64(len(b.content))
			}
			if tag == "nothing" { // its blob is none
				size = uint64(d.Size) + 2
			}
			if img.Size != size {
				t.Errorf("size = %d, want %d", img.Size, size)
			}
			if got := k.files(img); !slices.Equal(got, c.want) {
				t.Errorf("layers hold %.100q, want %.100q", got, c.want)
			}
			for _, ref := range []string{name, img.RepoDigests[0], img.ID.String(), img.ID.Encoded()[:12]} {
				if got, err := k.Get(ref); err != nil || got.ID != img.ID {
					t.Errorf("get %s: %+v, %v", ref, got, err)
				}
			}
			h.fetched()
			k.reopen(t)
			again := k.mustPull(t, name)
			if again.ID != img.ID || again.Artifact != img.Artifact || !slices.Equal(again.Layers, img.Layers) || again.Size != img.Size {
				t.Errorf("after a restart: %+v, want %+v", again, img)
			}
			if got := h.fetched(); len(got) != 0 {
				t.Errorf("%v were fetched again", got)
			}
			if err := k.Remove(t.Context(), name); err != nil {
				t.Error(err)
			}
			k.wantEmpty(t)
		})
	}
}

// An image that says artifactType is an image still, if it has an image's configuration.
func TestImageWithArtifactType(t *testing.T) {
	h, k := newHub(t), newKit(t, nil)
	p := h.push("app", "v1", func(_ *ocispec.Image, m *ocispec.Manifest) { m.ArtifactType = modelType }, gzipped("one"))
	if img := k.mustPull(t, h.host+"/app:v1"); img.ID != p.id || img.Artifact != "" || img.Config.OS != "linux" {
		t.Errorf("image = %+v", img)
	}
	h.push("app", "v2", func(i *ocispec.Image, _ *ocispec.Manifest) { i.RootFS.DiffIDs = nil }, gzipped("one"))
	if _, err := k.Pull(t.Context(), h.host+"/app:v2", nil); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("neither an image nor an artifact: %v", err)
	}
}

// What artifacts share is fetched once and stays while one needs it, and a layer that was
// unpacked is the image's of the same tar.
func TestArtifactsShareLayers(t *testing.T) {
	h, k := newHub(t), newKit(t, nil)
	l := gzipped("one")
	h.push("app", "image", nil, l)
	h.pushArtifact("app", "v1", nil, blob{title: "weights", content: "large"}, blob{title: "readme", content: "1"}, directory("file", l))
	h.pushArtifact("app", "v2", nil, blob{title: "weights", content: "large"}, blob{title: "readme", content: "2"})
	h.pushArtifact("app", "v3", nil, blob{title: "other-name", content: "large"})
	k.mustPull(t, h.host+"/app:image")
	one := k.mustPull(t, h.host+"/app:v1")
	if got := h.fetched(); slices.Contains(got[2:], digest.FromBytes(l.blob).String()) {
		t.Errorf("the image's layer was fetched again: %v", got)
	}
	two := k.mustPull(t, h.host+"/app:v2")
	if got := h.fetched(); slices.Contains(got, digest.FromString("large").String()) {
		t.Errorf("a shared blob was fetched again: %v", got)
	}
	if k.mustPull(t, h.host+"/app:v3").Layers[0] == two.Layers[0] {
		t.Error("a file of another name is the same layer")
	}
	if err := k.Remove(t.Context(), one.ID.String()); err != nil {
		t.Fatal(err)
	}
	if got := k.files(two); !slices.Equal(got, []string{"weights\nlarge", "readme\n2"}) {
		t.Errorf("layers hold %q", got)
	}
	if !k.layers.Has(l.diffID()) || len(k.layers.List()) != 4 {
		t.Errorf("layers = %v", k.layers.List())
	}
}

// TestArtifactOfIndex: an index leads to the artifact for this platform, or to the only one.
// An artifact beside images stands for none of them.
func TestArtifactOfIndex(t *testing.T) {
	h := newHub(t)
	here, there := ocispec.Platform{OS: "linux", Architecture: "amd64"}, ocispec.Platform{OS: "linux", Architecture: "s390x"}
	unknown := ocispec.Platform{OS: "unknown", Architecture: "unknown"}
	mine := h.pushArtifact("app", "", nil, blob{title: "for", content: "here"})
	mine.ArtifactType = modelType
	other := h.pushArtifact("app", "", nil, blob{title: "for", content: "there"})
	other.ArtifactType = modelType
	image := h.push("app", "", nil, gzipped("one")).manifest
	on := func(d ocispec.Descriptor, p ocispec.Platform) ocispec.Descriptor { d.Platform = &p; return d }
	for name, c := range map[string]struct {
		list []ocispec.Descriptor
		want digest.Digest
	}{
		"platforms":         {[]ocispec.Descriptor{on(other, there), on(mine, here)}, mine.Digest},
		"sole":              {[]ocispec.Descriptor{mine}, mine.Digest},
		"sole unknown":      {[]ocispec.Descriptor{on(mine, unknown)}, mine.Digest},
		"no platforms":      {[]ocispec.Descriptor{mine, other}, mine.Digest},
		"sole of others":    {[]ocispec.Descriptor{on(other, there)}, ""},
		"attached":          {[]ocispec.Descriptor{on(image, there), mine}, ""},
		"attached, unknown": {[]ocispec.Descriptor{on(image, there), on(mine, unknown)}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			k := newKit(t, nil)
			d := h.manifest("app", "index", ocispec.MediaTypeImageIndex, ocispec.Index{Manifests: c.list})
			img, err := k.Pull(t.Context(), h.host+"/app:index", nil)
			if c.want == "" && !errdefs.IsNotFound(err) || c.want != "" && err != nil || img.ID != c.want {
				t.Errorf("id = %q, %v, want %q", img.ID, err, c.want)
			}
			if err == nil && !slices.Equal(img.RepoDigests, []string{h.host + "/app@" + d.Digest.String()}) {
				t.Errorf("digests = %v", img.RepoDigests)
			}
		})
	}
}

// A pull that knows an artifact by its record writes the same one again, should that go
// meanwhile.
func TestKnownArtifactThatIsRemoved(t *testing.T) {
	h, k := newHub(t), newKit(t, nil)
	h.pushArtifact("app", "v1", nil, blob{title: "a", content: "A"})
	first := k.mustPull(t, h.host+"/app:v1")
	ctx := flow.WithObserver(t.Context(), before(func(step string) {
		if step == "write record" {
			if err := k.Remove(context.Background(), first.ID.String()); err != nil {
				t.Error(err)
			}
		}
	}))
	if _, err := k.Pull(ctx, h.host+"/app:v1", nil); err != nil {
		t.Fatal(err)
	}
	k.reopen(t)
	if got, err := k.Get(h.host + "/app:v1"); err != nil || got.ID != first.ID || got.Artifact != modelType || !slices.Equal(got.Layers, first.Layers) {
		t.Errorf("image = %+v, %v", got, err)
	}
}

// A record that is not what was written is set aside: it has its own checksum, whatever of
// it is changed.
func TestArtifactRecordIsChecked(t *testing.T) {
	h, k := newHub(t), newKit(t, nil)
	h.pushArtifact("app", "v1", nil, blob{title: "a", content: "A"})
	img := k.mustPull(t, h.host+"/app:v1")
	path := filepath.Join(k.opts.Root, img.ID.Encoded()+recordSuffix)
	good, err := read(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*record){
		"manifest":    func(r *record) { r.Manifest = bytes.Replace(r.Manifest, []byte(`"a"`), []byte(`"b"`), 1) },
		"no manifest": func(r *record) { r.Manifest = nil },
		"config":      func(r *record) { r.Config = []byte("[]") },
		"layers":      func(r *record) { r.DiffIDs = []digest.Digest{digest.FromString("x")} },
		"no layers":   func(r *record) { r.DiffIDs = nil },
	} {
		bad := good
		spoil(&bad)
		if err := bad.write(k.opts.Root); err != nil {
			t.Fatal(err)
		}
		if _, err := read(path); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("%s: error = %v", name, err)
		}
	}
	k.reopen(t)
	if len(k.List()) != 0 {
		t.Error("a bad record was read")
	}
	if _, err := os.Stat(path + badSuffix); err != nil {
		t.Error(err)
	}
	if got := k.mustPull(t, h.host+"/app:v1"); got.ID != img.ID || !strings.HasPrefix(k.files(got)[0], "a\n") {
		t.Errorf("image = %+v", got)
	}
}
