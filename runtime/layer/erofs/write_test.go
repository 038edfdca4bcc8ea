package erofs

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// entry of a tar under test; the zero type is a regular file with body.
type entry struct {
	tar.Header
	body string
}

func makeTar(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := e.Header
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		h.Size = int64(len(e.body))
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		h.Format = tar.FormatPAX
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func file(name, body string) entry { return entry{tar.Header{Name: name}, body} }
func dir(name string) entry {
	return entry{Header: tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755}}
}
func link(name, to string) entry {
	return entry{Header: tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: to, Mode: 0o644}}
}
func symlink(name, to string) entry {
	return entry{Header: tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to, Mode: 0o777}}
}
func withXattr(e entry, kv ...string) entry {
	e.PAXRecords = map[string]string{}
	for i := 0; i < len(kv); i += 2 {
		e.PAXRecords[paxXattr+kv[i]] = kv[i+1]
	}
	return e
}

// image writes an image into a file of its own and has fsck.erofs judge it.
func image(t testing.TB, r io.Reader, o Options) (string, Result) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "image"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	res, err := Write(context.Background(), f, r, o)
	if err != nil {
		t.Fatalf("write: %v", err)
	}
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if st.Size() != res.Size {
		t.Errorf("size %d, result says %d", st.Size(), res.Size)
	}
	if err := Check(f, st.Size()); err != nil {
		t.Errorf("check: %v", err)
	}
	if out, err := exec.Command("fsck.erofs", f.Name()).CombinedOutput(); err != nil {
		t.Errorf("fsck.erofs: %v\n%s", err, out)
	}
	return f.Name(), res
}

// mount mounts an image; tests run on a file system whose files erofs can read.
func mount(t testing.TB, img string) string {
	t.Helper()
	d := t.TempDir()
	if err := unix.Mount(img, d, "erofs", unix.MS_RDONLY, ""); err != nil {
		t.Fatalf("mount: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(d, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return d
}

func mountTar(t testing.TB, entries ...entry) string {
	t.Helper()
	img, _ := image(t, bytes.NewReader(makeTar(t, entries...)), Options{})
	return mount(t, img)
}

func TestRefused(t *testing.T) {
	long := strings.Repeat("n", 256)
	deep := strings.Repeat("d/", 2100) + "x"
	for name, tc := range map[string]struct {
		tar  []byte
		kind error
	}{
		"leads out":                 {makeTar(t, file("../x", "")), errdefs.ErrInvalidArgument},
		"leads out later":           {makeTar(t, file("a/../../x", "")), errdefs.ErrInvalidArgument},
		"absolute and out":          {makeTar(t, file("/../x", "")), errdefs.ErrInvalidArgument},
		"hard link leads out":       {makeTar(t, link("x", "../etc/passwd")), errdefs.ErrInvalidArgument},
		"hard link to nothing":      {makeTar(t, link("x", "y")), errdefs.ErrInvalidArgument},
		"hard link to a directory":  {makeTar(t, dir("d"), link("x", "d")), errdefs.ErrInvalidArgument},
		"hard link to the root":     {makeTar(t, link("x", "/")), errdefs.ErrInvalidArgument},
		"hard link to a whiteout":   {makeTar(t, file(".wh.y", ""), link("x", "y")), errdefs.ErrInvalidArgument},
		"long component":            {makeTar(t, file(long, "")), errdefs.ErrInvalidArgument},
		"long path":                 {makeTar(t, file(deep, "")), errdefs.ErrInvalidArgument},
		"long target":               {makeTar(t, symlink("l", strings.Repeat("t", 4096))), errdefs.ErrInvalidArgument},
		"long name through a link":  {makeTar(t, symlink("l", long), file("l/x", "")), errdefs.ErrInvalidArgument},
		"loop of links":             {makeTar(t, symlink("a", "b"), symlink("b", "a"), file("a/x", "")), errdefs.ErrInvalidArgument},
		"root is a file":            {makeTar(t, symlink(".", "x")), errdefs.ErrInvalidArgument},
		"whiteout of nothing":       {makeTar(t, file("d/.wh.", "")), errdefs.ErrInvalidArgument},
		"whiteout of the parent":    {makeTar(t, file("d/.wh...", "")), errdefs.ErrInvalidArgument},
		"below a whiteout":          {makeTar(t, file(".wh.d/x", "")), errdefs.ErrInvalidArgument},
		"unknown type":              {makeTar(t, entry{Header: tar.Header{Name: "x", Typeflag: 'Q'}}), errdefs.ErrInvalidArgument},
		"large device number":       {makeTar(t, entry{Header: tar.Header{Name: "x", Typeflag: tar.TypeBlock, Devmajor: 4096}}), errdefs.ErrInvalidArgument},
		"cut in the data":           {makeTar(t, file("x", strings.Repeat("x", 5000)))[:3000], errdefs.ErrInvalidArgument},
		"no tar":                    {bytes.Repeat([]byte("nonsense"), 200), errdefs.ErrInvalidArgument},
		"large xattr":               {makeTar(t, withXattr(file("x", ""), "user.a", strings.Repeat("v", 65536))), errdefs.ErrInvalidArgument},
		"many xattrs":               {makeTar(t, manyXattrs(5)), errdefs.ErrInvalidArgument},
		"too many entries":          {makeTar(t, dir("a/b/c/d/e/f/g/h/i/j/k")), errdefs.ErrResourceExhausted},
		"too much metadata":         {makeTar(t, manyXattrs(2)), errdefs.ErrResourceExhausted},
		"sparse file without bound": {gnuSparse(1 << 40), errdefs.ErrResourceExhausted},
	} {
		t.Run(name, func(t *testing.T) {
			o := Options{Limits: Limits{Sparse: 16 << 20}}
			switch name {
			case "too many entries":
				o.Limits.Entries = 10
			case "too much metadata":
				o.Limits.Metadata = 100 << 10
			}
			out := &memory{}
			_, err := Write(t.Context(), out, bytes.NewReader(tc.tar), o)
			if !errors.Is(err, tc.kind) {
				t.Fatalf("error is %v, want %v", err, tc.kind)
			}
			if Check(bytes.NewReader(out.b), int64(len(out.b))) == nil {
				t.Error("a failed image passes the check")
			}
		})
	}
}

func manyXattrs(n int) entry {
	kv := []string{}
	for i := range n {
		kv = append(kv, "user."+string(rune('a'+i)), strings.Repeat("v", 60000))
	}
	return withXattr(file("x", ""), kv...)
}

// gnuSparse is a tar of one file that claims to be a hole of size bytes.
func gnuSparse(size int64) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	h := &tar.Header{Name: "sparse", Typeflag: tar.TypeReg, Mode: 0o644, Format: tar.FormatGNU}
	if err := w.WriteHeader(h); err != nil {
		panic(err)
	}
	w.Close()
	raw := b.Bytes()
	raw[156] = tar.TypeGNUSparse
	// No stored pieces; offset 483 holds the real size, base 256.
	raw[483] = 0x80
	for i := range 8 {
		raw[483+11-i] = byte(size >> (8 * i))
	}
	sum := 0
	for i := range 512 {
		c := raw[i]
		if i >= 148 && i < 156 {
			c = ' '
		}
		sum += int(c)
	}
	copy(raw[148:156], []byte{byte('0' + sum>>15&7), byte('0' + sum>>12&7), byte('0' + sum>>9&7), byte('0' + sum>>6&7), byte('0' + sum>>3&7), byte('0' + sum&7), 0, ' '})
	return raw
}

// memory is an output in memory.
type memory struct{ b []byte }

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	if end := int(off) + len(p); end > len(m.b) {
		m.b = append(m.b, make([]byte, end-len(m.b))...)
	}
	return copy(m.b[off:], p), nil
}

func TestVerifyFailureLeavesNoSuperblock(t *testing.T) {
	out := &memory{}
	cause := errors.New("another digest")
	_, err := Write(t.Context(), out, bytes.NewReader(makeTar(t, file("x", "y"))), Options{Verify: func() error { return cause }})
	if !errors.Is(err, cause) {
		t.Fatalf("error is %v", err)
	}
	if Check(bytes.NewReader(out.b), int64(len(out.b))) == nil {
		t.Error("image passes the check")
	}
}

func TestReadsToTheEndOfTheStream(t *testing.T) {
	r := strings.NewReader(string(makeTar(t, file("x", "y"))) + strings.Repeat("padding", 100))
	if _, err := Write(t.Context(), &memory{}, r, Options{}); err != nil || r.Len() != 0 {
		t.Errorf("error %v, %d bytes left", err, r.Len())
	}
}

func TestEndedContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Write(ctx, &memory{}, bytes.NewReader(makeTar(t)), Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
}

func TestCheckSeesTruncation(t *testing.T) {
	out := &memory{}
	if _, err := Write(t.Context(), out, bytes.NewReader(makeTar(t, file("x", "y"))), Options{}); err != nil {
		t.Fatal(err)
	}
	short := out.b[:len(out.b)-BlockSize]
	if err := Check(bytes.NewReader(short), int64(len(short))); !errors.Is(err, errdefs.ErrDataLoss) {
		t.Errorf("truncated: error is %v", err)
	}
	out.b[superOffset+40]++
	if err := Check(bytes.NewReader(out.b), int64(len(out.b))); !errors.Is(err, errdefs.ErrDataLoss) {
		t.Errorf("altered: error is %v", err)
	}
}

func TestSameTarSameImage(t *testing.T) {
	in := makeTar(t, file("b", "1"), file("a/c", "2"), withXattr(file("a/d", "3"), "user.x", "1", "user.y", "2"))
	a, b := &memory{}, &memory{}
	for _, m := range []*memory{a, b} {
		if _, err := Write(t.Context(), m, bytes.NewReader(in), Options{}); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(a.b, b.b) {
		t.Error("images differ")
	}
}

var someTime = time.Unix(1700000000, 123456789)
