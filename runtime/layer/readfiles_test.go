package layer

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime/inroot"
)

func TestReadFilesSeesWhatOverlayfsShows(t *testing.T) {
	s := open(t, Options{})
	chain := []digest.Digest{
		ingest(t, s, "etc/passwd", "low", "etc/group", "low", "opaque/a", "low", "dir/a", "low",
			"was-dir/a", "low", "usr/etc/shadow", "low", "loop@", "loop", "file", "low"),
		ingest(t, s, "etc/group", "mid", "etc/.wh.passwd", "", "opaque/.wh..wh..opq", "", "opaque/b", "mid",
			".wh.dir", "", "was-dir", "mid", "link@", "/usr/etc", "rel@", "../../etc/group", "file/x", "mid"),
		ingest(t, s, "dir/b", "top", "etc/passwd2@", "passwd", "was-dir/b", "top", "abs@", "/rel", "usr/etc/up@", "../../etc/group"),
	}
	names := []string{"/etc/passwd", "etc/group", "/etc/passwd2", "/opaque/a", "/opaque/b", "/dir/a", "/dir/b", "/was-dir/a",
		"/was-dir/b", "/link/shadow", "/link/up", "/rel", "/abs", "/loop", "/etc", "/", "/nothing/x", "/file", "/file/x", "/rel/x",
		"/" + strings.Repeat("n", 300)}
	got, err := s.ReadFiles(t.Context(), chain, names...)
	if err != nil {
		t.Fatal(err)
	}
	m := overlay(t, s, chain)
	for _, name := range names {
		// The kernel resolves with the overlay as root, as for a container.
		want, there := readInRoot(t, m, name)
		content, ok := got[name]
		if ok != there || !bytes.Equal(content, want) {
			t.Errorf("%.40s: %q (%v), overlayfs has %q (%v)", name, content, ok, want, there)
		}
	}
	if string(got["/link/up"]) != "mid" || string(got["/dir/b"]) != "top" {
		t.Errorf("got %q", got)
	}
}

func TestMountListsWhatOverlayfsCanStack(t *testing.T) {
	s := open(t, Options{})
	low := ingest(t, s, "a", "low", "b", "low")
	empty := ingest(t, s)
	mid := ingest(t, s, ".wh.a", "", "b", "mid")
	hide := ingest(t, s, ".wh..wh..opq", "", "c", "hide")
	for _, tc := range []struct {
		chain []digest.Digest
		dirs  int
		files string // contents of a, b and c
	}{
		{[]digest.Digest{empty, low, empty, mid, empty}, 3, " mid "},
		{[]digest.Digest{low, mid, low}, 2, "low low "},
		{[]digest.Digest{low, hide}, 1, "  hide"},
		{[]digest.Digest{low, hide, mid}, 2, " mid hide"},
		{[]digest.Digest{hide, low, hide, mid}, 2, " mid hide"},
	} {
		dirs, err := s.Mount(t.Context(), tc.chain)
		if err != nil || len(dirs) != tc.dirs {
			t.Errorf("%v: %v, %v, want %d directories", tc.chain, dirs, err, tc.dirs)
		}
		got, err := s.ReadFiles(t.Context(), tc.chain, "a", "b", "c")
		if err != nil {
			t.Fatal(err)
		}
		if f := fmt.Sprintf("%s %s %s", got["a"], got["b"], got["c"]); f != tc.files {
			t.Errorf("%v shows %q, want %q", tc.chain, f, tc.files)
		}
		if tc.dirs > 1 { // a single directory needs no overlay
			overlay(t, s, tc.chain)
		}
	}
}

func overlay(t *testing.T, s *Store, chain []digest.Digest) string {
	t.Helper()
	dirs, err := s.Mount(t.Context(), chain)
	if err != nil {
		t.Fatal(err)
	}
	lower := ""
	for _, d := range dirs {
		lower = ":" + d + lower
	}
	m := t.TempDir()
	if err := unix.Mount("overlay", m, "overlay", 0, "lowerdir="+lower[1:]); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(m, unix.MNT_DETACH) })
	return m
}

func readInRoot(t *testing.T, root, name string) ([]byte, bool) {
	t.Helper()
	dir, err := os.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	fd, err := inroot.Open(int(dir.Fd()), filepath.Clean(name), unix.O_RDONLY)
	if err != nil {
		return nil, false
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	var buf bytes.Buffer
	if _, err := buf.ReadFrom(f); err != nil {
		return nil, false // a directory
	}
	return buf.Bytes(), true
}

func TestReadFilesIsBounded(t *testing.T) {
	s := open(t, Options{})
	most := ingest(t, s, "etc/passwd", strings.Repeat("x", maxFile))
	over := ingest(t, s, "etc/passwd", strings.Repeat("x", maxFile+1))
	if got, err := s.ReadFiles(t.Context(), []digest.Digest{most}, "/etc/passwd"); err != nil || len(got["/etc/passwd"]) != maxFile {
		t.Errorf("%d bytes, %v", len(got["/etc/passwd"]), err)
	}
	if _, err := s.ReadFiles(t.Context(), []digest.Digest{over}, "/etc/passwd"); !errors.Is(err, errdefs.ErrResourceExhausted) {
		t.Errorf("error is %v", err)
	}
	if got, err := s.ReadFiles(t.Context(), nil, "/etc/passwd"); err != nil || len(got) != 0 {
		t.Errorf("no layers: %v, %v", got, err)
	}
}

// wandering is an image whose links lead far through its tree; some to a file.
func wandering(t *testing.T, s *Store) (chain []digest.Digest, found, endless []string) {
	back, deep := strings.Repeat("a/../", 800), strings.Repeat("d/", 1000)
	low := []string{
		"file", "low", "a/x", "low", deep + "x", "low",
		"back@", back + "file", "deep@", deep + "x", "up@", strings.Repeat("d/", 600) + strings.Repeat("../", 599) + "x",
		"updown@", strings.Repeat("d/", 40) + strings.Repeat("../../d/d/", 40) + strings.Repeat("../", 39) + "x",
	}
	links := []string{"first@", back + "l1"}
	for i := range 38 {
		links = append(links, fmt.Sprintf("l%d@", i+1), fmt.Sprintf("%sl%d", back, i+2))
	}
	links = append(links, "l39@", back+"file")
	return []digest.Digest{
		ingest(t, s, append(low, links...)...), ingest(t, s, "a/y", "mid", deep+"y", "mid"), ingest(t, s, "a/z", "top", "d/x", "top"),
	}, []string{"back", "deep", "up", "updown"}, []string{"first", "l20"}
}

// TestReadFilesOpensFew: an image cannot take the daemon's descriptors, which all requests
// share, nor much of its time.
func TestReadFilesOpensFew(t *testing.T) {
	s := open(t, Options{})
	chain, found, endless := wandering(t, s)
	m := overlay(t, s, chain)
	before := limitDescriptors(t, 32)
	got, err := s.ReadFiles(t.Context(), chain, found...)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range found {
		want, there := readInRoot(t, m, name)
		content, ok := got[name]
		if ok != there || !bytes.Equal(content, want) {
			t.Errorf("%s: %q (%v), overlayfs has %q (%v)", name, content, ok, want, there)
		}
	}
	for _, name := range endless {
		if _, err := s.ReadFiles(t.Context(), chain, name); !errors.Is(err, errdefs.ErrResourceExhausted) {
			t.Errorf("%s: error is %v", name, err)
		}
	}
	if after := descriptors(t); len(after) != before {
		t.Errorf("%d descriptors are open, %d before: %v", len(after), before, after)
	}
}

// limitDescriptors lets the process open so many more, and returns how many there are.
func limitDescriptors(t *testing.T, more uint64) int {
	t.Helper()
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	before := descriptors(t)
	lower := unix.Rlimit{Cur: uint64(slices.Max(before)) + 1 + more, Max: limit.Max}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &lower); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Setrlimit(unix.RLIMIT_NOFILE, &limit) })
	return len(before)
}

// descriptors are those that the process has open.
func descriptors(t *testing.T) (open []int) {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		n, err := strconv.Atoi(e.Name())
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, n)
	}
	return open
}
