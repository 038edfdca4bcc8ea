package layer

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

func TestFullDisk(t *testing.T) {
	root := t.TempDir()
	if err := unix.Mount("tmpfs", root, "tmpfs", 0, "size=256k"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(root, unix.MNT_DETACH)
	s := open(t, Options{Root: root, State: t.TempDir()})
	fits := ingest(t, s, "a", "1")
	if _, err := s.Mount(t.Context(), []digest.Digest{fits}); err != nil {
		t.Fatal(err)
	}
	id, b := makeLayer(t, "b", strings.Repeat("2", 1<<20))
	if err := s.Ingest(t.Context(), id, bytes.NewReader(b)); !errors.Is(err, errdefs.ErrResourceExhausted) {
		t.Errorf("error is %v", err)
	}
	if e, _ := os.ReadDir(root); len(e) != 1 {
		t.Errorf("left %v", e)
	}
	os.WriteFile(root+"/filler", make([]byte, 1<<20), 0o600)
	if err := s.Remove(t.Context(), fits); err != nil || s.Has(fits) {
		t.Errorf("remove on a full disk: %v", err)
	}
	os.Remove(root + "/filler")
	if err := s.Ingest(t.Context(), fits, bytes.NewReader(mustLayer(t, "a", "1"))); err != nil {
		t.Errorf("ingest after space was made: %v", err)
	}
}

func mustLayer(t *testing.T, pairs ...string) []byte {
	_, b := makeLayer(t, pairs...)
	return b
}

// EROFS does not read files of overlayfs itself: a loop device steps in.
func TestBlobsOnOverlayfs(t *testing.T) {
	base := t.TempDir()
	for _, d := range []string{"/lower", "/upper", "/work", "/merged"} {
		if err := os.Mkdir(base+d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	o := "lowerdir=" + base + "/lower,upperdir=" + base + "/upper,workdir=" + base + "/work"
	if err := unix.Mount("overlay", base+"/merged", "overlay", 0, o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(base+"/merged", unix.MNT_DETACH) })
	s := open(t, Options{Root: base + "/merged/root", State: base + "/state"})
	id := ingest(t, s, "a", "1")
	dirs, err := s.Mount(t.Context(), []digest.Digest{id})
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(dirs[0] + "/a"); err != nil || string(b) != "1" {
		t.Errorf("read %q, %v", b, err)
	}
	var st unix.Stat_t
	if err := unix.Stat(dirs[0], &st); err != nil || unix.Major(st.Dev) != 7 {
		t.Errorf("device %x, %v, want a loop device", st.Dev, err)
	}
}
