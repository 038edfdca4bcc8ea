package layer

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime/layer/erofs"
)

// disk lists everything below a directory, with what a stray write would change.
func disk(t *testing.T, dir string) (lines []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		line := fmt.Sprint(p, " ", info.Mode())
		if !info.IsDir() {
			line += fmt.Sprint(" ", info.Size(), " ", info.ModTime())
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

// block is a header of tar as bytes, whose fields may hold anything.
func block(name string, kind byte, fields map[int]string) []byte {
	b := make([]byte, 512)
	copy(b, name)
	copy(b[100:], "0000644\x000000000\x000000000\x0000000000000\x0000000000000\x00        ")
	b[156] = kind
	copy(b[257:], "ustar\x0000")
	for at, value := range fields {
		copy(b[at:], value)
	}
	sum := 0
	for _, c := range b {
		sum += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

// withData pads data to whole blocks behind its header.
func withData(name string, kind byte, data string) []byte {
	b := append(block(name, kind, map[int]string{124: fmt.Sprintf("%011o\x00", len(data))}), data...)
	return append(b, make([]byte, -len(b)&511)...)
}

func ended(blocks ...[]byte) []byte {
	return append(slices.Concat(blocks...), make([]byte, 1024)...)
}

// TestHostileTars: tars that no tool makes by accident are refused, and neither the
// store nor what lies beside it has changed.
func TestHostileTars(t *testing.T) {
	regular := block("x", tar.TypeReg, nil)
	record := func(kv string) string { // of PAX
		n := len(kv) + 3
		for len(fmt.Sprintf("%d %s\n", n, kv)) != n {
			n++
		}
		return fmt.Sprintf("%d %s\n", n, kv)
	}
	pax := func(records string) []byte { return withData("pax", tar.TypeXHeader, records) }
	large := strings.Repeat("v", 2<<20)
	invalid, exhausted := errdefs.ErrInvalidArgument, errdefs.ErrResourceExhausted
	for name, c := range map[string]struct {
		tar  []byte
		kind error
	}{
		"traversal":                {tarOf(t, tar.Header{Name: "a/../../outside", Typeflag: tar.TypeReg}), invalid},
		"absolute traversal":       {tarOf(t, tar.Header{Name: "/../outside", Typeflag: tar.TypeReg}), invalid},
		"traversal by PAX":         {ended(pax(record("path=../outside")), regular), invalid},
		"traversal by GNU's name":  {ended(withData("././@LongLink", tar.TypeGNULongName, "../outside\x00"), regular), invalid},
		"link to outside":          {tarOf(t, tar.Header{Name: "x", Typeflag: tar.TypeLink, Linkname: "../outside"}), invalid},
		"absolute link to outside": {tarOf(t, tar.Header{Name: "x", Typeflag: tar.TypeLink, Linkname: "/outside"}), invalid},
		"link through a link": {tarOf(t, tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: ".."},
			tar.Header{Name: "x", Typeflag: tar.TypeLink, Linkname: "l/outside"}), invalid},
		"link through links": {tarOf(t, tar.Header{Name: "a", Typeflag: tar.TypeSymlink, Linkname: "/"}, tar.Header{Name: "b", Typeflag: tar.TypeSymlink, Linkname: "a/.."},
			tar.Header{Name: "x", Typeflag: tar.TypeLink, Linkname: "b/outside"}), invalid},
		"forged mark":              {tarOf(t, xattr(tar.Header{Name: "d", Typeflag: tar.TypeDir}, "trusted.overlay.opaque", "y")), invalid},
		"smuggled whiteout":        {tarOf(t, tar.Header{Name: "d", Typeflag: tar.TypeChar}), invalid},
		"large device":             {ended(block("d", tar.TypeBlock, map[int]string{329: "7777777\x00"})), invalid},
		"negative device":          {ended(block("d", tar.TypeChar, map[int]string{329: "\xff\xff\xff\xff\xff\xff\xff\xff"})), invalid},
		"negative owner":           {ended(block("x", tar.TypeReg, map[int]string{108: "\xff\xff\xff\xff\xff\xff\xff\xff"})), invalid},
		"owner 4294967295":         {tarOf(t, tar.Header{Name: "x", Typeflag: tar.TypeReg, Uid: 1<<32 - 1, Format: tar.FormatPAX}), invalid},
		"negative size":            {ended(block("x", tar.TypeReg, map[int]string{124: "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"})), invalid},
		"size of an exbibyte":      {ended(block("x", tar.TypeReg, map[int]string{124: "\x80\x00\x00\x00\x10\x00\x00\x00\x00\x00\x00\x00"})), invalid},
		"incremental directory":    {ended(block("x", 'D', nil)), invalid},
		"part of another archive":  {ended(block("x", 'M', nil)), invalid},
		"unknown kind":             {ended(block("x", 'Z', nil)), invalid},
		"empty name":               {ended(block("", tar.TypeReg, nil)), invalid},
		"wrong sum":                {append(bytes.Repeat([]byte{'x'}, 148), regular...), invalid},
		"huge PAX header":          {ended(pax(record("SCHILY.xattr.user.a="+large)), regular), invalid},
		"PAX header that lies":     {ended(pax("99 path=x\n"), regular), invalid},
		"PAX record without end":   {ended(pax("8 path=xy"), regular), invalid},
		"NUL in a PAX name":        {ended(pax(record("path=a\x00b")), regular), invalid},
		"huge GNU name":            {ended(withData("././@LongLink", tar.TypeGNULongName, large), regular), invalid},
		"holes that overlap":       {ended(pax(record("GNU.sparse.major=0")+record("GNU.sparse.minor=1")+record("GNU.sparse.numblocks=2")+record("GNU.sparse.size=100")+record("GNU.sparse.map=50,10,0,20")), regular), invalid},
		"holes beyond the file":    {ended(pax(record("GNU.sparse.major=0")+record("GNU.sparse.minor=1")+record("GNU.sparse.numblocks=1")+record("GNU.sparse.size=10")+record("GNU.sparse.map=50,10")), regular), invalid},
		"a hole without bound":     {ended(pax(record("GNU.sparse.major=0")+record("GNU.sparse.minor=1")+record("GNU.sparse.numblocks=1")+record("GNU.sparse.size=1125899906842624")+record("GNU.sparse.map=0,0")), regular), exhausted},
		"cut in a header":          {regular[:300], invalid},
		"cut in the data":          {withData("x", tar.TypeReg, large)[:1<<20], invalid},
		"too many entries":         {tarOf(t, tar.Header{Name: strings.Repeat("d/", 600), Typeflag: tar.TypeDir}), exhausted},
		"the same entry too often": {tarOf(t, slices.Repeat([]tar.Header{{Name: "d/", Typeflag: tar.TypeDir}}, 600)...), exhausted},
		"another digest":           {ended(regular), invalid},
	} {
		t.Run(name, func(t *testing.T) {
			base := t.TempDir()
			if err := os.WriteFile(base+"/outside", []byte("untouched"), 0o600); err != nil {
				t.Fatal(err)
			}
			s := open(t, Options{Root: base + "/root", State: base + "/state", Limits: erofs.Limits{Entries: 500, Sparse: 64 << 20}})
			ingest(t, s, "good", "layer")
			before := disk(t, base)
			id := digest.FromBytes(c.tar)
			if name == "another digest" {
				id = digest.FromString("another")
			}
			err := s.Ingest(t.Context(), id, bytes.NewReader(c.tar))
			if !errors.Is(err, c.kind) {
				t.Errorf("error = %v, want %v", err, c.kind)
			}
			if after := disk(t, base); !slices.Equal(after, before) {
				t.Errorf("the disk has changed from\n%s\nto\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
			}
			if n := len(s.List()); n != 1 {
				t.Errorf("%d layers, want one", n)
			}
		})
	}
}

// TestLinksToOutside: symbolic links may point anywhere. Nothing follows them: neither
// later entries of the layer, nor whoever reads files of the image.
func TestLinksToOutside(t *testing.T) {
	base := t.TempDir()
	if err := os.WriteFile(base+"/outside", []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := open(t, Options{Root: base + "/root", State: base + "/state"})
	up := strings.Repeat("../", 30)
	id := ingest(t, s, "absolute@", base, "relative@", up+base, "chain@", "absolute/x", "file@", base+"/outside",
		"absolute/outside", "inside", "relative/second", "inside", "chain/third", "inside")
	dirs, err := s.Mount(t.Context(), []digest.Digest{id})
	if err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"absolute": base, "relative": up + base, "chain": "absolute/x", "file": base + "/outside"} {
		if got, err := os.Readlink(dirs[0] + "/" + name); err != nil || got != target {
			t.Errorf("%s leads to %q, %v", name, got, err)
		}
	}
	for _, name := range []string{"outside", "second", "x/third"} { // below the same path in the image
		var st unix.Stat_t
		if err := unix.Lstat(dirs[0]+base+"/"+name, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
			t.Errorf("%s: %v", name, err)
		}
	}
	files, err := s.ReadFiles(t.Context(), []digest.Digest{id}, "file", "absolute/outside", "relative/outside", "chain/third", up+base+"/outside")
	if err != nil || len(files) != 5 {
		t.Errorf("%d files, %v", len(files), err)
	}
	for name, content := range files {
		if string(content) != "inside" {
			t.Errorf("%s holds %q", name, content)
		}
	}
	got, err := os.ReadFile(base + "/outside")
	entries, _ := os.ReadDir(base)
	if err != nil || string(got) != "secret" || len(entries) != 3 {
		t.Errorf("outside holds %q, %v, beside %v", got, err, entries)
	}
}
