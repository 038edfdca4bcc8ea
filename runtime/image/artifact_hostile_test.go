package image

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestHostileTitles: a blob's name is a path in the artifact, in the only way to write it,
// and no two blobs are in each other's way. Nothing is fetched for others.
func TestHostileTitles(t *testing.T) {
	long := strings.Repeat("d/", 2047)
	for name, titles := range map[string][]string{
		"parent": {".."}, "below parent": {"../etc/passwd"}, "parent within": {"a/../b"}, "out and in": {"a/../../b"},
		"absolute": {"/etc/passwd"}, "dot": {"."}, "dot first": {"./a"}, "dot within": {"a/./b"}, "slashes": {"a//b"}, "slash last": {"a/"},
		"NUL": {"a\x00b"}, "long": {long + "ff"}, "very long": {strings.Repeat("d/", 1<<19) + "f"}, "long component": {"a/" + strings.Repeat("n", 256)},
		"whiteout": {".wh.a"}, "opaque": {"a/.wh..wh..opq"}, "below whiteout": {".wh.a/b"},
		"twice": {"a", "b", "a"}, "file as directory": {"a", "a-b", "a/b"}, "file as directory above": {"a/b/c", "a"},
	} {
		t.Run(name, func(t *testing.T) {
			h, k := newHub(t), newKit(t, nil)
			var blobs []blob
			for i, title := range titles {
				blobs = append(blobs, blob{title: title, content: fmt.Sprint(i)})
			}
			h.pushArtifact("app", "v1", nil, blobs...)
			if _, err := k.Pull(t.Context(), h.host+"/app:v1", nil); !errdefs.IsInvalidArgument(err) || len(err.Error()) > 1000 {
				t.Errorf("error = %.2000v", err)
			}
			if got := h.fetched(); len(got) > 1 { // the configuration
				t.Errorf("%v were fetched", got)
			}
			k.wantEmpty(t)
		})
	}
	h, k := newHub(t), newKit(t, nil)
	h.pushArtifact("app", "v1", nil, blob{title: long + "f"}, blob{title: strings.Repeat("n", 255)}, blob{title: "..a"}, blob{title: "a.wh.b"},
		blob{title: "a b\\c\n"}, blob{title: "c:\\d"}, blob{title: "a"}, blob{title: "a-b"}, blob{title: "ab/c"})
	if img := k.mustPull(t, h.host+"/app:v1"); len(img.Layers) != 9 {
		t.Errorf("image = %+v", img)
	}
}

// TestHostileArtifacts: what artifacts may ask for is bounded as for images.
func TestHostileArtifacts(t *testing.T) {
	many := func(n int) func(*ocispec.Manifest) {
		return func(m *ocispec.Manifest) {
			one := m.Layers[0]
			for i := range n - 1 {
				one.Annotations = map[string]string{ocispec.AnnotationTitle: fmt.Sprint("b", i)}
				m.Layers = append(m.Layers, one)
			}
		}
	}
	first := func(change func(*ocispec.Descriptor)) func(*ocispec.Manifest) {
		return func(m *ocispec.Manifest) { change(&m.Layers[0]) }
	}
	bomb := gzipped(strings.Repeat("\x00", 1<<20))
	unpacked := func(sum string) map[string]string { return map[string]string{orasUnpack: "true", orasTarDigest: sum} }
	for name, c := range map[string]struct {
		blob   blob
		change func(*ocispec.Manifest)
		kind   error
	}{
		"10000 blobs":      {blob{title: "a", content: "A"}, many(10_000), errdefs.ErrFailedPrecondition},
		"501 blobs":        {blob{title: "a", content: "A"}, many(maxLayers + 1), errdefs.ErrFailedPrecondition},
		"beyond the limit": {blob{title: "a", content: noise(1<<20 + 1)}, nil, errdefs.ErrResourceExhausted},
		"claims too much":  {blob{title: "a", content: "A"}, first(func(d *ocispec.Descriptor) { d.Size = 1 << 50 }), errdefs.ErrResourceExhausted},
		"negative size":    {blob{title: "a", content: "A"}, first(func(d *ocispec.Descriptor) { d.Size = -1 }), errdefs.ErrFailedPrecondition},
		"size too small":   {blob{title: "a", content: "AA"}, first(func(d *ocispec.Descriptor) { d.Size-- }), errdefs.ErrFailedPrecondition},
		"size too large":   {blob{title: "a", content: "AA"}, first(func(d *ocispec.Descriptor) { d.Size++ }), errdefs.ErrFailedPrecondition},
		"unknown digest":   {blob{title: "a", content: "A"}, first(func(d *ocispec.Descriptor) { d.Digest = "md5:d41d8cd98f00b204e9800998ecf8427e" }), errdefs.ErrFailedPrecondition},
		"foreign": {blob{title: "a", content: "A"}, first(func(d *ocispec.Descriptor) {
			d.MediaType = "application/vnd.oci.image.layer.nondistributable.v1.tar"
		}), errdefs.ErrNotImplemented},
		"bomb":            {blob{"dir", string(bomb.blob), unpacked(bomb.diffID().String())}, nil, errdefs.ErrResourceExhausted},
		"other tar":       {blob{"dir", string(gzipped("one").blob), unpacked(bomb.diffID().String())}, nil, errdefs.ErrFailedPrecondition},
		"no tar's digest": {blob{"dir", string(bomb.blob), unpacked("")}, nil, errdefs.ErrFailedPrecondition},
		"path as digest":  {blob{"dir", string(bomb.blob), unpacked("sha256:../../../etc/passwd")}, nil, errdefs.ErrFailedPrecondition},
		"sha512 tar":      {blob{"dir", string(bomb.blob), unpacked(digest.SHA512.FromBytes(bomb.tar).String())}, nil, errdefs.ErrFailedPrecondition},
		"no config":       {blob{title: "a", content: "A"}, func(m *ocispec.Manifest) { m.Config.Digest = digest.FromString("none") }, errdefs.ErrNotFound},
		"huge config":     {blob{title: "a", content: "A"}, func(m *ocispec.Manifest) { m.Config.Size = maxConfig + 1 }, errdefs.ErrFailedPrecondition},
	} {
		t.Run(name, func(t *testing.T) {
			h, k := newHub(t), newKit(t, func(o *Options) { o.MaxLayer = 1 << 20 })
			h.pushArtifact("app", "v1", c.change, c.blob)
			if _, err := k.Pull(t.Context(), h.host+"/app:v1", nil); !errors.Is(err, c.kind) {
				t.Errorf("error = %v, want %v", err, c.kind)
			}
			k.wantEmpty(t)
		})
	}
}

// A blob with another content than its digest says is refused, and the next endpoint asked
// if there is one. The good ones do not stay.
func TestArtifactBlobIsVerified(t *testing.T) {
	h, k := newHub(t), newKit(t, nil)
	h.pushArtifact("app", "v1", nil, blob{title: "good", content: "good"}, blob{title: "bad", content: "true"})
	bad := digest.FromString("true").String()
	h.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, bad) {
			return false
		}
		_, _ = w.Write([]byte("lies"))
		return true
	})
	if _, err := k.Pull(t.Context(), h.host+"/app:v1", nil); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "another digest") {
		t.Errorf("error = %v", err)
	}
	k.wantEmpty(t)
	h.misbehave(nil)
	k.mustPull(t, h.host+"/app:v1")
}

// The signature policy decides on artifacts as on images: on the digest of the manifest.
func TestSignedArtifacts(t *testing.T) {
	k, h, s := signedKit(t)
	h.pushArtifact("app", "unsigned", nil, blob{title: "a", content: "A"})
	d := h.pushArtifact("app", "signed", nil, blob{title: "b", content: "B"})
	s.sign(t, h, "app", h.host+"/app:signed", d.Digest)
	_, err := k.Pull(t.Context(), h.host+"/app:unsigned", nil)
	wantRefused(t, err, "no signature")
	k.wantEmpty(t)
	img := k.mustPull(t, h.host+"/app:signed")
	if err := k.Allow(img.ID, h.host+"/app:signed", ""); err != nil {
		t.Error(err)
	}
}
