package checkpoint

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

type member struct {
	tar.Header
	data string
}

func read(t *testing.T, raw []byte) map[string]member {
	t.Helper()
	all := map[string]member{}
	for in := tar.NewReader(bytes.NewReader(raw)); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		if _, twice := all[h.Name]; twice {
			t.Errorf("%s is in the archive twice", h.Name)
		}
		all[h.Name] = member{*h, string(data)}
	}
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// TestWriteRootfs: an upper directory with all that can be in one becomes a layer.
func TestWriteRootfs(t *testing.T) {
	upper := t.TempDir()
	in := func(name string) string { return filepath.Join(upper, name) }
	must(t,
		os.MkdirAll(in("dir/sub"), 0o751), os.Chmod(in("dir"), 0o751|os.ModeSticky),
		os.WriteFile(in("dir/file"), []byte("content"), 0o640), os.Chown(in("dir/file"), 12, 34),
		os.Link(in("dir/file"), in("dir/zz-link")),
		os.Symlink("/etc/passwd", in("dir/symlink")),
		unix.Mknod(in("dir/gone"), unix.S_IFCHR, 0),
		unix.Mknod(in("dir/null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))),
		unix.Mkfifo(in("dir/fifo"), 0o600),
		unix.Mknod(in("dir/socket"), unix.S_IFSOCK|0o600, 0),
		unix.Setxattr(in("dir/file"), "user.mine", []byte("a\x00b"), 0),
		unix.Setxattr(in("dir/sub"), "trusted.overlay.opaque", []byte("y"), 0),
		unix.Setxattr(in("dir/sub"), "trusted.overlay.origin", []byte("x"), 0),
	)
	var out bytes.Buffer
	if err := WriteRootfs(t.Context(), upper, &out); err != nil {
		t.Fatal(err)
	}
	all := read(t, out.Bytes())
	want := []string{"./", "dir/", "dir/.wh.gone", "dir/fifo", "dir/file", "dir/null", "dir/sub/", "dir/sub/.wh..wh..opq", "dir/symlink", "dir/zz-link"}
	if names := slices.Sorted(maps.Keys(all)); !slices.Equal(names, want) {
		t.Fatalf("members %q, want %q", names, want)
	}
	f := all["dir/file"]
	if f.data != "content" || f.Mode != 0o640 || f.Uid != 12 || f.Gid != 34 || f.PAXRecords["SCHILY.xattr.user.mine"] != "a\x00b" {
		t.Errorf("file: %+v %q", f.Header, f.data)
	}
	if l := all["dir/zz-link"]; l.Typeflag != tar.TypeLink || l.Linkname != "dir/file" {
		t.Errorf("link: %+v", l.Header)
	}
	if l := all["dir/symlink"]; l.Typeflag != tar.TypeSymlink || l.Linkname != "/etc/passwd" {
		t.Errorf("symbolic link: %+v", l.Header)
	}
	if d := all["dir/null"]; d.Typeflag != tar.TypeChar || d.Devmajor != 1 || d.Devminor != 3 {
		t.Errorf("device: %+v", d.Header)
	}
	if d := all["dir/"]; d.Mode&0o7777 != 0o1751 {
		t.Errorf("directory: %o", d.Mode)
	}
	for key := range all["dir/sub/"].PAXRecords {
		if strings.Contains(key, "overlay") {
			t.Errorf("overlayfs' own attribute %s is in the layer", key)
		}
	}
}

// TestWriteRootfsRedirected: what lies elsewhere must not look empty.
func TestWriteRootfsRedirected(t *testing.T) {
	for _, key := range []string{"trusted.overlay.redirect", "trusted.overlay.metacopy", "user.overlay.redirect"} {
		upper := t.TempDir()
		must(t, os.Mkdir(filepath.Join(upper, "dir"), 0o755), unix.Setxattr(filepath.Join(upper, "dir"), key, []byte("/x"), 0))
		if err := WriteRootfs(t.Context(), upper, io.Discard); !errors.Is(err, errdefs.ErrFailedPrecondition) {
			t.Errorf("%s: %v", key, err)
		}
	}
}

// TestWriteRootfsIsBounded: directories that are deeper than any path, or have more in them
// than fits, are refused with the reason.
func TestWriteRootfsIsBounded(t *testing.T) {
	upper := t.TempDir()
	at, err := os.OpenRoot(upper)
	must(t, err)
	for range unix.PathMax/255 + 1 {
		name := strings.Repeat("d", 255)
		must(t, at.Mkdir(name, 0o755))
		inner, err := at.OpenRoot(name)
		must(t, err, at.Close())
		at = inner
	}
	must(t, at.Close())
	if err := WriteRootfs(t.Context(), upper, io.Discard); !errdefs.IsResourceExhausted(err) || len(err.Error()) > 300 {
		t.Errorf("deep: %v", err)
	}
	upper = t.TempDir()
	for _, name := range strings.Fields("a b c") {
		must(t, os.WriteFile(filepath.Join(upper, name), []byte(name), 0o600))
	}
	root, err := os.OpenRoot(upper)
	must(t, err)
	defer root.Close()
	for _, c := range []struct{ links, maxKept, kept int }{
		{links: 0, maxKept: 3 * 17, kept: 0},
		{links: 0, maxKept: 3*17 - 1, kept: -1},
		{links: 1, maxKept: 4*17 + 17, kept: 17},
		{links: 1, maxKept: 4*17 + 16, kept: -1},
	} {
		if c.links > 0 {
			must(t, ignoreMissing(os.Remove(filepath.Join(upper, "d"))), os.Link(filepath.Join(upper, "a"), filepath.Join(upper, "d")))
		}
		w := &layerWriter{out: tar.NewWriter(io.Discard), names: map[inode]string{}, maxKept: c.maxKept}
		switch err := w.addTree(t.Context(), place{root, ".", "."}); {
		case c.kept < 0 && !errdefs.IsResourceExhausted(err):
			t.Errorf("%+v: %v", c, err)
		case c.kept >= 0 && (err != nil || w.kept != c.kept || len(w.names) != c.links):
			t.Errorf("%+v: %v, %d bytes kept, %d names", c, err, w.kept, len(w.names))
		}
	}
}

// stopping ends a context when a mebibyte has been written.
type stopping struct {
	written int64
	stop    context.CancelFunc
}

func (s *stopping) Write(b []byte) (int, error) {
	if s.written += int64(len(b)); s.written >= 1<<20 {
		s.stop()
	}
	return len(b), nil
}

// TestWriteRootfsHoles: a file of holes, which costs nothing, fills no disk, and a large file
// does not outlast its context.
func TestWriteRootfsHoles(t *testing.T) {
	upper := t.TempDir()
	must(t, os.WriteFile(filepath.Join(upper, "x"), nil, 0o600), os.Truncate(filepath.Join(upper, "x"), maxHoles))
	ctx, cancel := context.WithCancel(t.Context())
	to := &stopping{stop: cancel}
	if err := WriteRootfs(ctx, upper, to); !errors.Is(err, context.Canceled) || to.written > 16<<20 {
		t.Errorf("after its context: %v, %d bytes", err, to.written)
	}
	must(t, os.Truncate(filepath.Join(upper, "x"), maxHoles+1<<20))
	to = &stopping{stop: func() {}}
	if err := WriteRootfs(t.Context(), upper, to); !errdefs.IsResourceExhausted(err) || to.written > 1<<20 {
		t.Errorf("more holes than may be: %v, %d bytes", err, to.written)
	}
}
