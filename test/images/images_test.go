package images

import (
	"archive/tar"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

func testCatalog(t *testing.T) map[string]mutate.Appendable {
	t.Helper()
	c, err := catalog(busybox{binary: []byte("busybox"), applets: []string{"busybox", "ls", "sh"}}, []byte("program"))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func digestOf(t *testing.T, img mutate.Appendable) v1.Hash {
	t.Helper()
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestDigestsAreDeterministic(t *testing.T) {
	first, second := testCatalog(t), testCatalog(t)
	for n, img := range first {
		if a, b := digestOf(t, img), digestOf(t, second[n]); a != b {
			t.Errorf("%s is %s, and then %s", n, a, b)
		}
	}
}

// TestIdentities holds what critest counts: which images are one, and which are not.
func TestIdentities(t *testing.T) {
	c := testCatalog(t)
	same := [][]string{
		{staging + "test-image-tags:1", staging + "test-image-tags:2", staging + "test-image-tags:3"},
		{"registry.k8s.io/pause:3.9", "k8s.gcr.io/pause:3.9"},
	}
	twins := map[string]string{}
	for _, group := range same {
		for _, n := range group {
			twins[n] = group[0]
		}
	}
	seen := map[v1.Hash]string{}
	for n, img := range c {
		kind := n
		if twins[n] != "" {
			kind = twins[n]
		}
		d := digestOf(t, img)
		if other, ok := seen[d]; ok && other != kind {
			t.Errorf("%s and %s are the same image", kind, other)
		}
		seen[d] = kind
	}
	if len(seen) != len(c)-3 {
		t.Errorf("%d different images of %d, want %d", len(seen), len(c), len(c)-3)
	}
}

// TestLayer holds what specs need of the file tree: hard links and modes.
func TestLayer(t *testing.T) {
	img := testCatalog(t)[e2e+"nonewprivs:1.3"].(v1.Image)
	r := tar.NewReader(mutate.Extract(img))
	links, modes := map[string]string{}, map[string]int64{}
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeLink {
			links[h.Name] = h.Linkname
		}
		modes[strings.TrimSuffix(h.Name, "/")] = h.Mode
		if h.Uid != 0 || h.ModTime.Unix() != 0 {
			t.Errorf("%s is of user %d and time %s", h.Name, h.Uid, h.ModTime)
		}
	}
	if links["bin/ls"] != "bin/busybox" {
		t.Errorf("bin/ls is a link to %q", links["bin/ls"])
	}
	if modes["nnp"] != 0o4755 || modes["tmp"] != 0o1777 {
		t.Errorf("modes are %o and %o", modes["nnp"], modes["tmp"])
	}
}

func TestRegistry(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "set")
	c := testCatalog(t)
	if err := write(dir, c); err != nil {
		t.Fatal(err)
	}
	set, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got := set.Names(); len(got) != len(c) {
		t.Fatalf("the set has %d images, want %d", len(got), len(c))
	}
	registry := NewRegistry(set)
	server := httptest.NewServer(registry)
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	for full, img := range c {
		_, repo, _ := strings.Cut(full, "/")
		ref, err := name.ParseReference(host+"/"+repo, name.Insecure)
		if err != nil {
			t.Fatal(err)
		}
		got, err := remote.Get(ref)
		if err != nil {
			t.Fatalf("get %s: %v", full, err)
		}
		if got.Digest != digestOf(t, img) {
			t.Errorf("%s is %s, want %s", full, got.Digest, digestOf(t, img))
		}
	}
	before := len(registry.Requests())
	if _, err := remote.Get(mustRef(t, host+"/no/such:image")); err == nil {
		t.Error("an image that does not exist was served")
	}
	extra := filepath.Join(t.TempDir(), "extra")
	if err := registry.Add(extra, "example.com/added:1", c[Busybox].(v1.Image)); err != nil {
		t.Fatal(err)
	}
	img, err := remote.Image(mustRef(t, host+"/added:1"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, mutate.Extract(img)); err != nil {
		t.Fatal(err)
	}
	kinds := []string{}
	for _, r := range registry.Requests()[before:] {
		if r.Name == "added" && r.Method == http.MethodGet {
			kinds = append(kinds, r.Kind)
		}
	}
	if !slices.Contains(kinds, "manifests") || !slices.Contains(kinds, "blobs") {
		t.Errorf("the log of requests has %v", kinds)
	}
}

func mustRef(t *testing.T, s string) name.Reference {
	t.Helper()
	r, err := name.ParseReference(s, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	return r
}
