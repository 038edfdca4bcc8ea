package erofs

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

func stat(t *testing.T, path string) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return st
}

func isWhiteout(t *testing.T, path string) bool {
	st := stat(t, path)
	return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
}

func isOpaque(path string) bool {
	b := make([]byte, 4)
	n, err := unix.Lgetxattr(path, opaqueXattr, b)
	return err == nil && string(b[:n]) == "y"
}

func content(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func absent(t *testing.T, path string) {
	t.Helper()
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("%s: %v, want it absent", path, err)
	}
}

func TestWhiteouts(t *testing.T) {
	d := mountTar(t,
		file("gone/.wh.file", ""),
		dir("opaque"), file("opaque/.wh..wh..opq", ""), file("opaque/own", "own"),
		file(".wh.replaced", ""), file("replaced/x", "x"),
		file("later/x", "x"), file(".wh.later", ""),
		file("kept", "kept"), file(".wh.kept", ""),
		file(".wh..wh.plnk/1.2", "aufs"), file(".wh..wh.aufs", "aufs"),
	)
	if !isWhiteout(t, d+"/gone/file") {
		t.Error("no whiteout")
	}
	for _, p := range []string{"/opaque", "/replaced", "/later"} {
		if !isOpaque(d + p) {
			t.Errorf("%s is not opaque", p)
		}
	}
	if isOpaque(d + "/gone") {
		t.Error("directory with a whiteout is opaque")
	}
	for p, want := range map[string]string{"/opaque/own": "own", "/replaced/x": "x", "/later/x": "x", "/kept": "kept"} {
		if got := content(t, d+p); got != want {
			t.Errorf("%s: %q, want %q", p, got, want)
		}
	}
	absent(t, d+"/.wh..wh.plnk")
	absent(t, d+"/.wh..wh.aufs")
}

func TestOverlayMergesAsTheLayersSay(t *testing.T) {
	low := mountTar(t, file("a/1", "low"), file("a/2", "low"), file("b/1", "low"), file("c/1", "low"), file("d", "low"))
	up := mountTar(t, file("a/.wh.1", ""), file("a/3", "up"), file("b/.wh..wh..opq", ""), file("b/2", "up"),
		file(".wh.c", ""), file("d", "up"))
	m := t.TempDir()
	if err := unix.Mount("overlay", m, "overlay", 0, "lowerdir="+up+":"+low); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(m, unix.MNT_DETACH)
	var got []string
	filepath.WalkDir(m, func(p string, e os.DirEntry, err error) error {
		if err != nil {
			t.Error(err)
		} else if !e.IsDir() {
			got = append(got, strings.TrimPrefix(p, m)+"="+content(t, p))
		}
		return nil
	})
	if s := strings.Join(got, " "); s != "/a/2=low /a/3=up /b/2=up /d=up" {
		t.Errorf("overlay shows %s", s)
	}
}

// Marks of overlayfs fail the layer by name; what other attributes an image cannot hold
// is left out and counted.
func TestForgedMarks(t *testing.T) {
	for mark, e := range map[string]entry{
		"trusted.overlay.opaque":      withXattr(dir("etc/forged"), "trusted.overlay.opaque", "y"),
		"trusted.overlay.redirect":    withXattr(dir("etc/forged"), "trusted.overlay.redirect", "/etc"),
		"trusted.overlay.metacopy":    withXattr(file("etc/forged", ""), "trusted.overlay.metacopy", ""),
		"trusted.overlay.whiteout":    withXattr(file("etc/forged", ""), "trusted.overlay.whiteout", "y"),
		"trusted.overlay.overlay.x":   withXattr(symlink("etc/forged", "x"), "trusted.overlay.overlay.opaque", "y"),
		"character device 0:0":        {Header: tar.Header{Name: "etc/forged", Typeflag: tar.TypeChar}},
		"a root that is redirected":   withXattr(dir("./"), "trusted.overlay.redirect", "/etc"),
		"a name that is a whiteout's": file("link/x", ""),
	} {
		out := &memory{}
		_, err := Write(t.Context(), out, bytes.NewReader(makeTar(t, symlink("link", ".wh.x"), e)), Options{})
		if !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: error is %v", mark, err)
			continue
		}
		if strings.Contains(e.Name, "forged") && !strings.Contains(err.Error(), `"etc/forged"`) {
			t.Errorf("%s: error %q does not name the entry", mark, err)
		}
		if Check(bytes.NewReader(out.b), int64(len(out.b))) == nil {
			t.Errorf("%s: the image passes the check", mark)
		}
	}
	img, res := image(t, bytes.NewReader(makeTar(t,
		withXattr(dir("kept"), "trusted.other", "1", "lustre.lov", "1", "user.kept", "1", "user.overlay.opaque", "y"),
		entry{Header: tar.Header{Name: "null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}},
		entry{Header: tar.Header{Name: "block", Typeflag: tar.TypeBlock}},
	)), Options{})
	if res.Dropped != 2 {
		t.Errorf("dropped %d, want 2", res.Dropped)
	}
	d := mount(t, img)
	if st := stat(t, d+"/null"); st.Rdev != unix.Mkdev(1, 3) {
		t.Errorf("null is %x", st.Rdev)
	}
	if st := stat(t, d+"/block"); st.Mode&unix.S_IFMT != unix.S_IFBLK || st.Rdev != 0 {
		t.Errorf("block has mode %o, device %x", st.Mode, st.Rdev)
	}
	if attrs := xattrsOf(t, d+"/kept"); !strings.Contains(attrs, "user.kept=31,") || strings.Contains(attrs, "trusted") {
		t.Errorf("xattrs of kept: %q", attrs)
	}
}

func TestParentsThatAreLinks(t *testing.T) {
	d := mountTar(t,
		symlink("lib", "usr/lib"), file("lib/a", "a"),
		symlink("abs", "/usr"), file("abs/b", "b"),
		symlink("out", "../../../../../out-of-root"), file("out/c", "c"),
		symlink("usr/up", ".."), file("usr/up/d", "d"),
		file("plain", "x"), file("plain/e", "e"),
	)
	for p, want := range map[string]string{"usr/lib/a": "a", "usr/b": "b", "out-of-root/c": "c", "d": "d", "plain/e": "e"} {
		if st := stat(t, d+"/"+filepath.Dir(p)); st.Mode != unix.S_IFDIR|0o755 || st.Uid != 0 {
			t.Errorf("parent of %s: mode %o", p, st.Mode)
		}
		if got := content(t, d+"/"+p); got != want {
			t.Errorf("%s: %q, want %q", p, got, want)
		}
	}
	if l, err := os.Readlink(d + "/lib"); err != nil || l != "usr/lib" {
		t.Errorf("lib -> %q, %v", l, err)
	}
}

func TestLaterEntriesReplaceEarlierOnes(t *testing.T) {
	own := func(e entry, uid int) entry { e.Uid = uid; return e }
	d := mountTar(t,
		file("f", "1"), link("hard", "f"), file("f", "22"),
		own(file("d/x", "x"), 1), own(dir("d"), 5),
		dir("dir"), file("dir/x", "x"), file("dir", "file now"),
		file("file", "x"), dir("file"), file("file/y", "y"),
		file("tree/sub/x", "kept"), link("outside", "tree/sub/x"), file("tree", "file now"),
		file("/abs", "abs"), file("./a/../b", "b"), link("hard", "hard"),
		own(dir("./"), 7),
	)
	for p, want := range map[string]string{"f": "22", "hard": "1", "d/x": "x", "dir": "file now", "file/y": "y", "abs": "abs", "b": "b",
		"outside": "kept", "tree": "file now"} {
		if got := content(t, d+"/"+p); got != want {
			t.Errorf("%s: %q, want %q", p, got, want)
		}
	}
	if stat(t, d+"/d").Uid != 5 || stat(t, d).Uid != 7 {
		t.Error("later directory entry did not set the owner")
	}
	if n := stat(t, d+"/hard").Nlink; n != 1 {
		t.Errorf("hard has %d links, want 1", n)
	}
	if n := stat(t, d+"/outside").Nlink; n != 1 {
		t.Errorf("outside has %d links, want 1", n)
	}
	absent(t, d+"/a")
}
