package image

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	store "github.com/cricket-cri/cricket/runtime/layer"
)

// On a disk that fills up, pulls fail and give back what they took, and what is there can
// be removed.
func TestRealFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=3m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	layers, err := store.Open(store.Options{Root: filepath.Join(dir, "layers"), State: filepath.Join(dir, "state")})
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(Options{Root: filepath.Join(dir, "images"), Layers: layers})
	if err != nil {
		t.Fatal(err)
	}
	h := newHub(t)
	h.push("small", "v1", nil, gzipped("one"))
	h.push("big", "v1", nil, gzipped("two"), gzipped(noise(5<<20)))
	if _, err := s.Pull(t.Context(), h.host+"/small:v1", nil); err != nil {
		t.Fatal(err)
	}
	before, _ := s.Usage()
	if _, err := s.Pull(t.Context(), h.host+"/big:v1", nil); !errdefs.IsResourceExhausted(err) {
		t.Errorf("error = %v, want resource exhausted", err)
	}
	if after, _ := s.Usage(); after.Bytes != before.Bytes || after.Inodes != before.Inodes {
		t.Errorf("usage = %+v after the failed pull, was %+v", after, before)
	}
	fill(t, filepath.Join(dir, "ballast"))
	h.push("small", "v2", nil, gzipped("one"))
	if _, err := s.Pull(t.Context(), h.host+"/small:v2", nil); !errdefs.IsResourceExhausted(err) {
		t.Errorf("record on a full disk: error = %v, want resource exhausted", err)
	}
	if img, err := s.Get(h.host + "/small:v1"); err != nil || len(img.RepoTags) != 1 {
		t.Errorf("image = %+v, %v", img, err)
	}
	if err := s.Remove(t.Context(), h.host+"/small:v1"); err != nil {
		t.Errorf("remove on a full disk: %v", err)
	}
	if n := len(s.List()) + len(layers.List()); n != 0 {
		t.Errorf("%d images and layers are left", n)
	}
}

// fill writes until nothing more fits.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 64 << 10; size >= 1; size /= 2 {
		for {
			if _, err := f.Write(make([]byte, size)); err != nil {
				break
			}
		}
	}
}
