package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	store "github.com/cricket-cri/cricket/runtime/layer"
)

// hubContent hands out what a registry has as one who imports would: without any of the
// registry client's code.
type hubContent struct{ url string }

func (h *hub) content(repo string) hubContent { return hubContent{h.URL + "/v2/" + repo} }

func (h hubContent) Open(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	for _, kind := range []string{"/blobs/", "/manifests/"} {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.url+kind+desc.Digest.String(), nil)
		if err != nil {
			return nil, err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return nil, err
		}
		if resp.StatusCode == http.StatusOK {
			return resp.Body, nil
		}
		resp.Body.Close()
	}
	return nil, fmt.Errorf("open %s: %w", desc.Digest, errdefs.ErrNotFound)
}

// offer is the image as one who imports it describes it.
func (p pushed) offer(names ...string) Import { return Import{Names: names, Target: p.manifest} }

func TestImport(t *testing.T) {
	h, k := newHub(t), newKit(t, nil)
	p := h.push("app", "v1", nil, gzipped("one"), zstded("two"), plain("three"))
	var mu sync.Mutex
	last := map[digest.Digest]LayerProgress{}
	ctx := WithProgress(t.Context(), func(p LayerProgress) { mu.Lock(); defer mu.Unlock(); last[p.Layer] = p })
	what := p.offer("example.com/team/app:v1", "short", "example.com/team/app@"+p.manifest.Digest.String())
	what.Pinned = true
	img, err := k.Import(ctx, what, h.content("app"))
	if err != nil {
		t.Fatal(err)
	}
	d := p.manifest.Digest.String()
	if img.ID != p.id || !img.Pinned || !slices.Equal(img.RepoTags, []string{"docker.io/library/short:latest", "example.com/team/app:v1"}) ||
		!slices.Equal(img.RepoDigests, []string{"docker.io/library/short@" + d, "example.com/team/app@" + d}) {
		t.Errorf("image = %+v", img)
	}
	for i, l := range p.layers {
		if got := last[l.diffID()]; !got.Stored || got.Present || got.Done != p.doc.Layers[i].Size || got.Total != got.Done {
			t.Errorf("progress of layer %d = %+v", i+1, got)
		}
	}
	// A pull of the same reads nothing, and pins stay.
	h.fetched()
	if _, err := k.Pull(t.Context(), h.host+"/app:v1", nil); err != nil {
		t.Fatal(err)
	}
	if blobs := h.fetched(); len(blobs) != 0 {
		t.Errorf("pull after import fetched %v", blobs)
	}
	k.reopen(t)
	if got, err := k.Get("short"); err != nil || !got.Pinned || len(got.RepoTags) != 3 {
		t.Errorf("after restart: %+v, %v", got, err)
	}
	// Again, under a further name: nothing is read but the documents.
	if _, err := k.Import(ctx, p.offer("other"), h.content("app")); err != nil {
		t.Fatal(err)
	}
	if got := last[p.layers[0].diffID()]; !got.Present {
		t.Errorf("progress of a layer that was there = %+v", got)
	}
	if blobs := h.fetched(); slices.Contains(blobs, p.doc.Layers[0].Digest.String()) {
		t.Errorf("second import fetched %v", blobs)
	}
	if err := k.Remove(t.Context(), "other"); err != nil {
		t.Fatal(err)
	}
	k.wantEmpty(t)
}

// A name that another image has moves, on the disk too.
func TestImportMovesTags(t *testing.T) {
	h, k := newHub(t), newKit(t, nil)
	a, b := h.push("app", "a", nil, plain("a")), h.push("app", "b", nil, plain("b"))
	for _, p := range []pushed{a, b} {
		if _, err := k.Import(t.Context(), p.offer("one:v1", "two:v1"), h.content("app")); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		for _, name := range []string{"one:v1", "two:v1"} {
			if img, err := k.Get(name); err != nil || img.ID != b.id {
				t.Errorf("%s = %v, %v", name, img.ID, err)
			}
		}
		if img, err := k.Get(a.id.String()); err != nil || len(img.RepoTags) != 0 {
			t.Errorf("former owner has %v, %v", img.RepoTags, err)
		}
		k.reopen(t)
	}
}

func TestImportRefuses(t *testing.T) {
	h, k := newHub(t), newKit(t, nil)
	p := h.push("app", "v1", nil, gzipped("one"))
	liar := h.push("liar", "v1", func(c *ocispec.Image, _ *ocispec.Manifest) {
		c.RootFS.DiffIDs[0] = digest.FromString("another")
	}, gzipped("one"))
	arm := h.push("arm", "v1", func(c *ocispec.Image, _ *ocispec.Manifest) { c.Architecture = "arm64" }, gzipped("one"))
	for name, c := range map[string]struct {
		what Import
		from string
		is   func(error) bool
	}{
		"no name":        {p.offer(), "app", errdefs.IsInvalidArgument},
		"bad name":       {p.offer("A:B:C"), "app", errdefs.IsInvalidArgument},
		"other digest":   {p.offer("a@" + liar.manifest.Digest.String()), "app", errdefs.IsInvalidArgument},
		"bad platform":   {Import{Names: []string{"a"}, Target: p.manifest, Platform: "no/such/thing/at/all"}, "app", errdefs.IsInvalidArgument},
		"absent content": {p.offer("a"), "other", errdefs.IsNotFound},
		"wrong diff id":  {liar.offer("a"), "liar", func(err error) bool { return err != nil }},
		"other platform": {arm.offer("a"), "arm", errdefs.IsFailedPrecondition},
	} {
		if _, err := k.Import(t.Context(), c.what, h.content(c.from)); !c.is(err) {
			t.Errorf("%s: error = %v", name, err)
		}
		k.wantEmpty(t)
	}
	what := arm.offer("a")
	what.Platform = "linux/arm64"
	if _, err := k.Import(t.Context(), what, h.content("arm")); err != nil {
		t.Errorf("a platform that is asked for: %v", err)
	}
}

// TestImportOfAnotherPlatform: an image of another platform that an index leads to is what its
// own name says, and no other name comes to mean it.
func TestImportOfAnotherPlatform(t *testing.T) {
	h, k := newHub(t), newKit(t, nil)
	var list []ocispec.Descriptor
	for _, arch := range []string{runtime.GOARCH, "s390x"} {
		d := h.push("app", arch, func(c *ocispec.Image, _ *ocispec.Manifest) { c.Architecture = arch }, plain(arch)).manifest
		d.Platform = &ocispec.Platform{OS: "linux", Architecture: arch}
		list = append(list, d)
	}
	index := h.manifest("app", "v1", ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: list,
	})
	tag, digested := h.host+"/app:v1", h.host+"/app@"+index.Digest.String()
	other, err := k.Import(t.Context(), Import{Names: []string{h.host + "/app:other"}, Target: index, Platform: "linux/s390x"}, h.content("app"))
	if err != nil {
		t.Fatal(err)
	}
	ours, err := k.Pull(t.Context(), tag, nil)
	if err != nil || ours.Config.Architecture != runtime.GOARCH {
		t.Fatalf("after the import the pull answers %s, %v", ours.Config.Architecture, err)
	}
	again := func() {
		t.Helper()
		if _, err := k.Import(t.Context(), Import{Names: []string{h.host + "/app:other"}, Target: index, Platform: "linux/s390x"}, h.content("app")); err != nil {
			t.Fatal(err)
		}
	}
	for name, do := range map[string]func(){"at first": func() {}, "imported again": again, "reopened": func() { k.reopen(t) }} {
		do()
		for ref, want := range map[string]digest.Digest{tag: ours.ID, digested: ours.ID, h.host + "/app:other": other.ID} {
			if is, err := k.Get(ref); err != nil || is.ID != want {
				t.Errorf("%s: %s is %s, %v, want %s", name, ref, is.ID, err, want)
			}
		}
	}
	if err := k.Remove(t.Context(), other.ID.String()); err != nil {
		t.Fatal(err)
	}
	if is, err := k.Get(digested); err != nil || is.ID != ours.ID {
		t.Errorf("without the other %s is %s, %v", digested, is.ID, err)
	}
}

// falseContent gives other bytes than were asked for.
type falseContent struct {
	Content
	of digest.Digest
}

func (f falseContent) Open(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	rc, err := f.Content.Open(ctx, desc)
	if err != nil || desc.Digest != f.of {
		return rc, err
	}
	raw, err := io.ReadAll(rc)
	raw[len(raw)-1] ^= 1
	return io.NopCloser(bytes.NewReader(raw)), errors.Join(err, rc.Close())
}

func TestImportChecksEverything(t *testing.T) {
	h, k := newHub(t), newKit(t, nil)
	p := h.push("app", "v1", nil, gzipped("one"), plain("two"))
	for _, d := range []digest.Digest{p.manifest.Digest, p.config.Digest, p.doc.Layers[0].Digest, p.doc.Layers[1].Digest} {
		if _, err := k.Import(t.Context(), p.offer("a"), falseContent{h.content("app"), d}); err == nil {
			t.Errorf("content of %s was changed: no error", d)
		}
		k.wantEmpty(t)
	}
}

// What a crash leaves of layers is gone when the store opens again, and what images need
// is not.
func TestUnreferencedBlobsAreCollected(t *testing.T) {
	h, dir := newHub(t), t.TempDir()
	p := h.push("app", "v1", nil, gzipped("one"))
	layers, err := store.Open(store.Options{Root: filepath.Join(dir, "layers")})
	if err != nil {
		t.Fatal(err)
	}
	opts := Options{Root: filepath.Join(dir, "images"), Layers: layers}
	s, err := Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Import(t.Context(), p.offer("app"), h.content("app")); err != nil {
		t.Fatal(err)
	}
	orphan := plain("orphan")
	if err := layers.Ingest(t.Context(), orphan.diffID(), bytes.NewReader(orphan.tar)); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(opts); err != nil {
		t.Fatal(err)
	}
	if got := layers.List(); !slices.Equal(got, []digest.Digest{p.layers[0].diffID()}) {
		t.Errorf("layers = %v, want that of the image alone", got)
	}
}

func TestRecordsReadBesideTheStore(t *testing.T) {
	h, k := newHub(t), newKit(t, nil)
	p := h.push("app", "v1", nil, plain("one"))
	if _, err := k.Import(t.Context(), p.offer("app"), h.content("app")); err != nil {
		t.Fatal(err)
	}
	r := Records{Root: k.opts.Root, Pinned: []string{"app"}}
	images, damaged, err := r.List()
	if err != nil || len(damaged) != 0 || len(images) != 1 || images[0].ID != p.id || !images[0].Pinned {
		t.Errorf("list = %+v, %v, %v", images, damaged, err)
	}
	kept, err := r.Documents(p.id)
	if err != nil || digest.FromBytes(kept.Config) != p.id || !json.Valid(kept.Config) || kept.Manifest != nil {
		t.Errorf("documents = %+v, %v", kept, err)
	}
	if _, err := r.Documents(digest.FromString("x")); !errdefs.IsNotFound(err) {
		t.Errorf("absent: %v", err)
	}
	path := filepath.Join(k.opts.Root, p.id.Encoded()+".json")
	text, _ := os.ReadFile(path)
	os.WriteFile(path, []byte(strings.Replace(string(text), p.id.String(), digest.FromString("x").String(), 1)), 0o600)
	if images, damaged, _ := r.List(); len(images) != 0 || len(damaged) != 1 || !errdefs.IsDataLoss(damaged[0].Err) {
		t.Errorf("damaged record: %+v, %+v", images, damaged)
	}
}

// Patterns mean what they mean in CRI-O's pinned_images; whole names may be short.
func TestPinPatterns(t *testing.T) {
	const name = "docker.io/library/busybox:1.37"
	for pattern, want := range map[string]bool{
		name: true, "busybox:1.37": true, "busybox": false, "docker.io/library/busybox:1.3": false,
		"docker.io/library/*": true, "*busy*": true, "*:1.37": true, "busy*": false, "*": true, "*lazy*": false,
	} {
		if got := pinned(fullPatterns([]string{pattern}), name); got != want {
			t.Errorf("%s: pinned %v, want %v", pattern, got, want)
		}
	}
}
