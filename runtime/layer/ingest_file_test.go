package layer

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"

	"github.com/opencontainers/go-digest"
)

// Layers of one file, of every size that ends in, at and behind a block of the tar or of the
// blob, stacked: each has its file, bit by bit, and directories that none describes are
// there once.
func TestIngestFile(t *testing.T) {
	s := open(t, Options{})
	files := map[string]int{
		"empty": 0, "one": 1, "block": 512, "page": 4096, "dir/page and one": 4097, "dir/sub/odd": 3<<20 + 17,
		"dir/" + strings.Repeat("n", 255): 5, strings.Repeat("deep/", 60) + "file": 3, "ünïcode =\n": 7,
	}
	var chain []digest.Digest
	content := map[string][]byte{}
	for name, size := range files {
		content[name] = bytes.Repeat([]byte(name), size/len(name)+1)[:size]
		id := digest.FromString(name)
		if err := s.IngestFile(t.Context(), id, name, int64(size), iotest.HalfReader(bytes.NewReader(content[name]))); err != nil {
			t.Fatalf("%q: %v", name, err)
		}
		chain = append(chain, id)
	}
	root := overlay(t, s, chain)
	for name, want := range content {
		path := filepath.Join(root, name)
		got, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%q: %d bytes, want %d, %v", name, len(got), len(want), err)
			continue
		}
		st, err := os.Stat(path)
		if err != nil || st.Mode() != 0o644 || st.ModTime().Unix() != 0 || st.Sys().(*syscall.Stat_t).Uid != 0 {
			t.Errorf("%q: %+v, %v", name, st, err)
		}
	}
	if st, err := os.Stat(filepath.Join(root, "dir")); err != nil || st.Mode() != os.ModeDir|0o755 {
		t.Errorf("directory: %+v, %v", st, err)
	}
	if list, err := os.ReadDir(root); err != nil || len(list) != 7 {
		t.Errorf("root: %v, %v", list, err)
	}
	for _, id := range chain {
		if v, err := (Blobs{s.root}).Verify(t.Context(), id); err != nil || !v.Sealed {
			t.Errorf("verify: %+v, %v", v, err)
		}
	}
}

// A file that is not true, or another size than was said, leaves nothing.
func TestIngestFileThatIsNotTrue(t *testing.T) {
	s := open(t, Options{})
	bad := errors.New("another digest")
	for name, content := range map[string]io.Reader{
		"at its end": io.MultiReader(strings.NewReader("12345"), iotest.ErrReader(bad)),
		"before it":  io.MultiReader(strings.NewReader("12"), iotest.ErrReader(bad)),
	} {
		if err := s.IngestFile(t.Context(), digest.FromString(name), "file", 5, content); !errors.Is(err, bad) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := s.IngestFile(t.Context(), "sha256:short", "file", 5, strings.NewReader("12345")); err == nil {
		t.Error("a name that is no digest: no error")
	}
	if files, err := os.ReadDir(s.root); err != nil || len(files) != 0 {
		t.Errorf("left: %v, %v", files, err)
	}
}
