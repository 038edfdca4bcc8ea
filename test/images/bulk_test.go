package images

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestBulk(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"cmd/a": "one", "b": "two", "c.so": "three"} {
		path := filepath.Join(dir, "src", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("b", filepath.Join(dir, "src/link")); err != nil {
		t.Fatal(err)
	}
	is := func(want string) func(string) bool { return func(rel string) bool { return rel == want } }
	parts := []part{{filepath.Join(dir, "src"), is("cmd/a")}, {filepath.Join(dir, "src"), func(rel string) bool { return !is("cmd/a")(rel) }}}
	var digests []string
	for range 2 {
		work := t.TempDir()
		if err := buildBulk(work, parts); err != nil {
			t.Fatal(err)
		}
		set, err := Open(work)
		if err != nil {
			t.Fatal(err)
		}
		img, err := set.Image(Bulk)
		if err != nil {
			t.Fatal(err)
		}
		layers, err := img.Layers()
		if err != nil || len(layers) != 2 {
			t.Fatalf("%d layers (%v), want 2", len(layers), err)
		}
		digest, err := set.Digest(Bulk)
		if err != nil {
			t.Fatal(err)
		}
		digests = append(digests, digest.String())
		left, err := filepath.Glob(filepath.Join(work, "*.tar"))
		if err != nil || len(left) > 0 {
			t.Errorf("left behind: %v (%v)", left, err)
		}
	}
	if digests[0] != digests[1] {
		t.Errorf("the same files made %v", strings.Join(digests, " and "))
	}
}
