package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"github.com/cricket-cri/cricket/runtime/image"
	"github.com/cricket-cri/cricket/runtime/layer"
)

// shop is an image store with its layers, in a directory.
type shop struct {
	*image.Store
	records image.Records
	blobs   layer.Blobs
}

func newShop(t *testing.T) shop {
	t.Helper()
	dir := t.TempDir()
	layers, err := layer.Open(layer.Options{Root: dir + "/layers"})
	if err != nil {
		t.Fatal(err)
	}
	s, err := image.Open(image.Options{Root: dir + "/images", Layers: layers})
	if err != nil {
		t.Fatal(err)
	}
	return shop{s, image.Records{Root: dir + "/images"}, layer.Blobs{Root: dir + "/layers"}}
}

// take imports all that an archive has.
func (s shop) take(t *testing.T, a *Archive, err error, names ...string) (images []image.Image) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	for _, what := range a.Images() {
		if len(names) > 0 {
			what.Names = names
		}
		img, err := s.Import(t.Context(), what, a)
		if err != nil {
			t.Fatalf("import %v: %v", what.Names, err)
		}
		images = append(images, img)
	}
	return images
}

// export writes images by their names.
func (s shop) export(t *testing.T, to io.Writer, plain bool, names ...string) {
	t.Helper()
	e := Exporter{Tar: s.blobs.WriteTar, Plain: plain}
	if err := e.ToTar(t.Context(), to, s.exported(t, names...)); err != nil {
		t.Fatal(err)
	}
}

func (s shop) exported(t *testing.T, names ...string) (list []Exported) {
	t.Helper()
	for _, n := range names {
		img, err := s.Get(n)
		if err != nil {
			t.Fatal(err)
		}
		kept, err := s.records.Documents(img.ID)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, Exported{ID: img.ID, Names: img.RepoTags, Documents: kept, Layers: img.Layers})
	}
	return list
}

// made is an image for this node that another's code made.
func made(t *testing.T, layers int64) (v1.Image, digest.Digest) {
	t.Helper()
	img, err := random.Image(64<<10, layers)
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config.OS, config.Architecture = "linux", "amd64"
	if img, err = mutate.ConfigFile(img, config); err != nil {
		t.Fatal(err)
	}
	id, err := img.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	return img, digest.Digest(id.String())
}

// dockerArchive is what `docker save` wrote before it knew OCI layouts.
func dockerArchive(t *testing.T, img v1.Image, ref string) []byte {
	t.Helper()
	tag, err := name.NewTag(ref)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := tarball.Write(tag, img, &out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func write(t *testing.T, raw []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "archive")
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func gzipped(raw []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	w.Write(raw)
	w.Close()
	return out.Bytes()
}

func TestDockerArchive(t *testing.T) {
	img, id := made(t, 3)
	raw := dockerArchive(t, img, "example.com/app:v1")
	var zstded bytes.Buffer
	w, _ := zstd.NewWriter(&zstded)
	w.Write(raw)
	w.Close()
	for form, open := range map[string]func() (*Archive, error){
		"file":   func() (*Archive, error) { return Open(t.Context(), write(t, raw)) },
		"gzip":   func() (*Archive, error) { return Open(t.Context(), write(t, gzipped(raw))) },
		"zstd":   func() (*Archive, error) { return Open(t.Context(), write(t, zstded.Bytes())) },
		"stream": func() (*Archive, error) { return Read(t.Context(), io.MultiReader(bytes.NewReader(raw))) },
		"gzip stream": func() (*Archive, error) {
			return Read(t.Context(), io.MultiReader(bytes.NewReader(gzipped(raw))))
		},
	} {
		s := newShop(t)
		a, err := open()
		got := s.take(t, a, err)
		if len(got) != 1 || got[0].ID != id || !slices.Equal(got[0].RepoTags, []string{"example.com/app:v1"}) || len(got[0].RepoDigests) != 0 {
			t.Errorf("%s: %+v", form, got)
		}
	}
}

// What `docker save` wrote for layers that images share: links. And what it writes now:
// plain layers, which have no digest but their diff id.
func TestDockerArchiveWithPlainLayersAndLinks(t *testing.T) {
	content := layerTar(t, "a", "one")
	config := fmt.Sprintf(`{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[%q,%q]}}`, digest.FromBytes(content), digest.FromBytes(content))
	manifest := `[{"Config":"c.json","RepoTags":["app:v1","app:v2"],"Layers":["1/layer.tar","2/layer.tar"]}]`
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	add := func(name, body string) {
		w.WriteHeader(&tar.Header{Name: name, Size: int64(len(body)), Mode: 0o644})
		io.WriteString(w, body)
	}
	add("./c.json", config)
	add("1/layer.tar", string(content))
	w.WriteHeader(&tar.Header{Name: "2/layer.tar", Typeflag: tar.TypeSymlink, Linkname: "../1/layer.tar"})
	add("manifest.json", manifest)
	w.Close()
	s := newShop(t)
	a, err := Read(t.Context(), &out)
	got := s.take(t, a, err)
	if len(got) != 1 || len(got[0].Layers) != 2 || len(got[0].RepoTags) != 2 {
		t.Errorf("%+v", got)
	}
}

func layerTar(t *testing.T, name, body string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	w.WriteHeader(&tar.Header{Name: name, Size: int64(len(body)), Mode: 0o644})
	io.WriteString(w, body)
	w.Close()
	return out.Bytes()
}

// An OCI layout that another's code wrote, as directory and as tar, of several platforms.
func TestLayout(t *testing.T) {
	img, id := made(t, 2)
	dir := t.TempDir()
	p, err := layout.Write(dir, emptyIndex(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.AppendImage(img, layout.WithAnnotations(map[string]string{containerdName: "example.com/app:v1"})); err != nil {
		t.Fatal(err)
	}
	if err := p.AppendImage(img, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": "example.com/app:v2"})); err != nil {
		t.Fatal(err)
	}
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	for form, open := range map[string]func() (*Archive, error){
		"directory": func() (*Archive, error) { return Open(t.Context(), dir) },
		"tar":       func() (*Archive, error) { return Open(t.Context(), write(t, tarOf(t, dir))) },
	} {
		s := newShop(t)
		a, err := open()
		got := s.take(t, a, err)
		if len(got) != 1 || got[0].ID != id || len(got[0].RepoTags) != 2 || !slices.Equal(got[0].RepoDigests, []string{"example.com/app@" + d.String()}) {
			t.Errorf("%s: %+v", form, got)
		}
	}
}

func emptyIndex(t *testing.T) v1.ImageIndex {
	t.Helper()
	index, err := random.Index(1, 1, 0)
	if err != nil {
		t.Fatal(err)
	}
	return index
}

// tarOf packs a directory in the order of names, index.json in the middle.
func tarOf(t *testing.T, dir string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	w.Close()
	return out.Bytes()
}

func TestRefused(t *testing.T) {
	tarWith := func(files map[string]string) []byte {
		var out bytes.Buffer
		w := tar.NewWriter(&out)
		for n, body := range files {
			w.WriteHeader(&tar.Header{Name: n, Size: int64(len(body)), Mode: 0o644})
			io.WriteString(w, body)
		}
		w.Close()
		return out.Bytes()
	}
	for name, raw := range map[string][]byte{
		"no tar":          []byte("this is a text and no archive, " + strings.Repeat("x", 2000)),
		"torn gzip":       gzipped(tarWith(map[string]string{"a": "b"}))[:30],
		"neither":         tarWith(map[string]string{"a": "b"}),
		"index no json":   tarWith(map[string]string{"index.json": "{"}),
		"digest":          tarWith(map[string]string{"index.json": `{"manifests":[{"digest":"sha256:../../x"}]}`}),
		"no config":       tarWith(map[string]string{"manifest.json": `[{"Config":"c"}]`}),
		"missing layer":   tarWith(map[string]string{"manifest.json": `[{"Config":"c","Layers":["l"]}]`, "c": `{"rootfs":{"diff_ids":["x"]}}`}),
		"layers disagree": tarWith(map[string]string{"manifest.json": `[{"Config":"c","Layers":[]}]`, "c": `{"rootfs":{"diff_ids":["x"]}}`}),
		"huge document":   tarWith(map[string]string{"index.json": strings.Repeat(" ", maxDocument+1)}),
	} {
		if _, err := Open(t.Context(), write(t, raw)); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: error = %v, want invalid argument", name, err)
		}
	}
}

// A layout's links lead nowhere outside of it.
func TestLinksStayInside(t *testing.T) {
	dir, secret := t.TempDir(), write(t, []byte(`{"secret":true}`))
	d := digest.FromString(`{"secret":true}`)
	os.MkdirAll(filepath.Join(dir, "blobs/sha256"), 0o755)
	os.Symlink(secret, filepath.Join(dir, blobName(d)))
	index, _ := json.Marshal(map[string]any{"manifests": []any{map[string]any{"digest": d, "size": 15}}})
	os.WriteFile(filepath.Join(dir, "index.json"), index, 0o644)
	a, err := Open(context.Background(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if _, err := a.Open(t.Context(), a.Images()[0].Target); err == nil {
		t.Error("a file outside was opened")
	}
}
