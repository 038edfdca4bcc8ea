package erofs

import (
	"archive/tar"
	"bytes"
	"slices"
	"testing"
)

// What a tar says nothing of is known of its image, and not said in a tar made of that.
func TestImplied(t *testing.T) {
	in := makeTar(t, file("a/b/file", ""), dir("c"), file("c/d/file", ""), file("e/file", ""), dir("e"), file("f/.wh.gone", ""), file("g/h/x", ""), file("g/h", ""))
	raw := writeMemory(t, in)
	for range 2 {
		i := openImage(t, raw)
		paths, err := i.Implied(Limits{})
		if err != nil {
			t.Fatal(err)
		}
		if got, want := slices.Sorted(paths), []string{"a", "a/b", "c/d", "f", "g"}; !slices.Equal(got, want) {
			t.Fatalf("implied are %q, want %q", got, want)
		}
		var out bytes.Buffer
		if err := i.WriteTar(t.Context(), &out, Limits{}); err != nil {
			t.Fatal(err)
		}
		raw = writeMemory(t, out.Bytes())
	}
	none := openImage(t, writeMemory(t, makeTar(t, dir("a"), file("a/file", ""), file("top", ""))))
	if paths, err := none.Implied(Limits{}); none.HasImplied() || err != nil || len(slices.Collect(paths)) != 0 {
		t.Errorf("a directory is implied, or the answer fails: %v", err)
	}
}

// Merged, a directory is as the last layer made it that said what it is like.
func TestMergeImplied(t *testing.T) {
	secret := entry{Header: tar.Header{Name: "secret", Typeflag: tar.TypeDir, Mode: 0o1700, Uid: 5, Gid: 6}}
	hidden := entry{Header: tar.Header{Name: "hidden", Typeflag: tar.TypeDir, Mode: 0o1700, Uid: 7, Gid: 8}}
	low := openImage(t, writeMemory(t, makeTar(t, withXattr(secret, "user.a", "1"), hidden, file("hidden/x", ""))))
	up := openImage(t, writeMemory(t, makeTar(t, file("secret/x", ""), file("hidden/.wh..wh..opq", ""))))
	layers := []*Image{low, up, up}
	tree := newTree(DefaultLimits())
	for i, l := range layers {
		root, err := l.read(tree, 0)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			tree.root = root
		} else {
			tree.stack(tree.root, root)
		}
	}
	tree.settle()
	s, h := tree.child(tree.root, "secret"), tree.child(tree.root, "hidden")
	if s.mode&0o7777 != 0o1700 || s.uid != 5 || s.gid != 6 || len(s.xattrs()) != 1 || tree.child(s, "x") == nil {
		t.Errorf("secret has mode %o, owner %d:%d, attributes %v", s.mode, s.uid, s.gid, s.xattrs())
	}
	if h.mode&0o7777 != 0o1700 || h.uid != 7 || h.gid != 8 || tree.child(h, "x") != nil {
		t.Errorf("hidden has mode %o, owner %d:%d, x %v", h.mode, h.uid, h.gid, tree.child(h, "x"))
	}
}
