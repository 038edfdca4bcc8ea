package image

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	store "github.com/cricket-cri/cricket/runtime/layer"
)

// On a disk that fills up, pulls and imports fail and give back what they took, and what
// is there can be removed. Once on a file system in memory, once on ext4 on a disk.
func TestRealFullDisk(t *testing.T) {
	for name, mount := range map[string]func(*testing.T) string{"tmpfs": smallTmpfs, "ext4": smallExt4} {
		t.Run(name, func(t *testing.T) { fullDisk(t, mount(t)) })
	}
}

func smallTmpfs(t *testing.T) string {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=3m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

func smallExt4(t *testing.T) string {
	dir, disk := t.TempDir(), filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(disk, 4<<20); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", disk).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := exec.Command("mount", "-o", "loop", disk, dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("something stays open: %v", err)
			_ = unix.Unmount(dir, unix.MNT_DETACH)
		}
	})
	return dir
}

func fullDisk(t *testing.T, dir string) {
	layers, err := store.Open(store.Options{Root: filepath.Join(dir, "layers")})
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(Options{Root: filepath.Join(dir, "images"), Layers: layers})
	if err != nil {
		t.Fatal(err)
	}
	h := newHub(t)
	h.push("small", "v1", nil, gzipped("one"))
	big := h.push("big", "v1", nil, gzipped("two"), gzipped(noise(5<<20)))
	if _, err := s.Pull(t.Context(), h.host+"/small:v1", nil); err != nil {
		t.Fatal(err)
	}
	before := free(t, dir)
	if _, err := s.Pull(t.Context(), h.host+"/big:v1", nil); !errdefs.IsResourceExhausted(err) {
		t.Errorf("pull: error = %v, want resource exhausted", err)
	}
	if after := free(t, dir); after != before {
		t.Errorf("%d blocks are free after the failed pull, were %d", after, before)
	}
	if _, err := s.Import(t.Context(), big.offer("big:v1"), h.content("big")); !errdefs.IsResourceExhausted(err) {
		t.Errorf("import: error = %v, want resource exhausted", err)
	}
	if after := free(t, dir); after != before {
		t.Errorf("%d blocks are free after the failed import, were %d", after, before)
	}
	if n := len(layers.List()); n != 1 {
		t.Errorf("%d layers, want that of the small image", n)
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

// free is how many blocks of the file system are free, once everything is written.
func free(t *testing.T, dir string) uint64 {
	t.Helper()
	unix.Sync()
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	return st.Bfree
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
