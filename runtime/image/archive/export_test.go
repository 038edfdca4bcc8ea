package archive

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/opencontainers/go-digest"
)

// An exported image has the same content, and from the first export on the same bytes
// every time, through any number of stores.
func TestExportIsStable(t *testing.T) {
	img, id := made(t, 3)
	for _, plain := range []bool{false, true} {
		s := newShop(t)
		a, err := Read(t.Context(), bytes.NewReader(dockerArchive(t, img, "example.com/app:v1")))
		first := s.take(t, a, err)[0]
		var one, two bytes.Buffer
		s.export(t, &one, plain, "example.com/app:v1")

		other := newShop(t)
		a, err = Read(t.Context(), bytes.NewReader(one.Bytes()))
		got := other.take(t, a, err)
		if len(got) != 1 || !slices.Equal(got[0].RepoTags, first.RepoTags) || len(got[0].RepoDigests) != 1 {
			t.Fatalf("imported: %+v", got)
		}
		if got[0].ID == id || len(got[0].Layers) != 3 {
			t.Errorf("id = %s, layers = %v", got[0].ID, got[0].Layers)
		}
		got[0].Config.RootFS = first.Config.RootFS
		if !reflect.DeepEqual(got[0].Config, first.Config) {
			t.Errorf("configuration = %+v, want %+v", got[0].Config, first.Config)
		}
		for i := range first.Layers {
			if a, b := s.tar(t, first.Layers[i]), other.tar(t, got[0].Layers[i]); !bytes.Equal(a, b) {
				t.Errorf("layer %d has another content", i+1)
			}
		}
		other.export(t, &two, plain, "example.com/app:v1")
		if a, b := withoutOrigin(t, one.Bytes()), withoutOrigin(t, two.Bytes()); !slices.Equal(a, b) {
			t.Errorf("the second export differs:\n%v\n%v", a, b)
		}
	}
}

func (s shop) tar(t *testing.T, id digest.Digest) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := s.blobs.WriteTar(t.Context(), id, &out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// withoutOrigin lists the blobs but for manifests, which say which image they were made of.
func withoutOrigin(t *testing.T, raw []byte) (blobs []string) {
	t.Helper()
	tr := tar.NewReader(bytes.NewReader(raw))
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return blobs
		}
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(tr)
		if strings.HasPrefix(h.Name, "blobs/") && !bytes.Contains(body, []byte(storedAs)) {
			blobs = append(blobs, h.Name)
		}
	}
}

// Others read what is exported: as a layout and as a Docker archive.
func TestOthersReadWhatIsExported(t *testing.T) {
	img, _ := made(t, 2)
	s := newShop(t)
	a, err := Read(t.Context(), bytes.NewReader(dockerArchive(t, img, "example.com/app:v1")))
	s.take(t, a, err)
	var out bytes.Buffer
	s.export(t, &out, false, "example.com/app:v1")
	tag, _ := name.NewTag("example.com/app:v1")
	docker, err := tarball.Image(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(out.Bytes())), nil }, &tag)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "layout")
	if err := (Exporter{Tar: s.blobs.WriteTar}).ToDirectory(t.Context(), dir, s.exported(t, "example.com/app:v1")); err != nil {
		t.Fatal(err)
	}
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	m, err := index.IndexManifest()
	if err != nil || len(m.Manifests) != 1 || m.Manifests[0].Annotations["org.opencontainers.image.ref.name"] != "v1" || m.Manifests[0].Platform.Architecture != "amd64" {
		t.Fatalf("index = %+v, %v", m, err)
	}
	oci, err := index.Image(m.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	want := filesOf(t, img)
	for form, got := range map[string]v1.Image{"docker": docker, "oci": oci} {
		if fs := filesOf(t, got); len(fs) != 2 || !reflect.DeepEqual(fs, want) {
			t.Errorf("%s: files %v, want %v", form, fs, want)
		}
	}
	if err := (Exporter{Tar: s.blobs.WriteTar}).ToDirectory(t.Context(), dir, nil); !errdefs.IsAlreadyExists(err) {
		t.Errorf("into a directory that is not empty: %v", err)
	}
}

// filesOf are an image's regular files with the digests of their content, read by another's
// code, which checks digests and diff ids.
func filesOf(t *testing.T, img v1.Image) map[string]string {
	t.Helper()
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, l := range layers {
		rc, err := l.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		sum := digest.SHA256.Digester()
		tr := tar.NewReader(io.TeeReader(rc, sum.Hash()))
		for {
			h, err := tr.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(tr)
			if h.Typeflag == tar.TypeReg {
				found[h.Name] = digest.FromBytes(body).String()
			}
		}
		io.Copy(sum.Hash(), rc)
		rc.Close()
		if want, _ := l.DiffID(); want.String() != sum.Digest().String() {
			t.Errorf("layer has diff id %s, and content of %s", want, sum.Digest())
		}
	}
	return found
}
