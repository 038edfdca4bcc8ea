package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// tarOf makes a layer of headers; the body is in Linkname of regular files.
func tarOf(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		var body string
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Typeflag == tar.TypeReg {
			body, h.Linkname = h.Linkname, ""
		}
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		h.Size, h.Format = int64(len(body)), tar.FormatPAX
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func ingestAll(t testing.TB, s *Store, tars ...[]byte) (chain []digest.Digest) {
	t.Helper()
	for _, b := range tars {
		id := digest.FromBytes(b)
		if err := s.Ingest(t.Context(), id, bytes.NewReader(b)); err != nil {
			t.Fatal(err)
		}
		chain = append(chain, id)
	}
	return chain
}

func xattr(h tar.Header, kv ...string) tar.Header {
	h.PAXRecords = map[string]string{}
	for i := 0; i < len(kv); i += 2 {
		h.PAXRecords["SCHILY.xattr."+kv[i]] = kv[i+1]
	}
	return h
}

const capability = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// difficult is a chain with all that overlayfs knows about.
func difficult(t testing.TB) [][]byte {
	at := time.Unix(1700000000, 123456789)
	reg := func(name, body string) tar.Header { return tar.Header{Name: name, Linkname: body, ModTime: at} }
	dir := func(name string, mode int64, uid int) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: mode, Uid: uid, ModTime: at}
	}
	link := func(name, to string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: to}
	}
	big := strings.Repeat("0123456789abcdef", 100_000)
	var many []tar.Header
	for i := range 700 {
		many = append(many, reg(fmt.Sprintf("many/a-rather-long-name-of-a-file-%04d", i), fmt.Sprint(i)))
	}
	bottom := append(many,
		dir("etc", 0o755, 0), reg("etc/passwd", "root"), reg("etc/gone", "x"), reg("etc/changed", "old"),
		dir("opaque", 0o700, 5), reg("opaque/hidden", "x"), dir("opaque/sub", 0o755, 0), reg("opaque/sub/hidden", "x"),
		dir("replaced", 0o755, 0), reg("replaced/x", "x"),
		reg("file2dir", "x"), dir("dir2file", 0o755, 0), reg("dir2file/x", "x"),
		dir("twice", 0o755, 0), reg("twice/low", "low"),
		reg("links/a", "linked"), link("links/b", "links/a"), link("links/c", "links/a"), reg("links/big", big), link("hard", "links/big"),
		tar.Header{Name: "dev/null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3, Mode: 0o666},
		tar.Header{Name: "dev/disk", Typeflag: tar.TypeBlock, Devmajor: 259, Devminor: 70000},
		tar.Header{Name: "dev/fifo", Typeflag: tar.TypeFifo, Mode: 0o600, Uid: 1 << 20, Gid: 70000},
		tar.Header{Name: "lib", Typeflag: tar.TypeSymlink, Linkname: "usr/lib", ModTime: at},
		tar.Header{Name: "long", Typeflag: tar.TypeSymlink, Linkname: strings.Repeat("t/", 2000)},
		xattr(reg("bin/ping", "ping"), "security.capability", capability, "user.a", "1"),
		xattr(dir("attrs", 0o2755, 7), "user.big", strings.Repeat("v", 3900), "user.b", ""),
		tar.Header{Name: "suid", Linkname: "s", Mode: 0o6755, Uid: 1, Gid: 2}, reg("empty", ""), reg("tail", big[:4097]),
	)
	middle := []tar.Header{
		dir("etc", 0o711, 3), reg("etc/.wh.gone", ""), reg("etc/changed", "new"), reg("opaque/.wh..wh..opq", ""), reg("opaque/own", "own"),
		reg(".wh.replaced", ""), reg("replaced/y", "y"), reg(".wh.twice", ""), dir("file2dir", 0o750, 0), reg("file2dir/in", "in"), reg("dir2file", "now a file"),
		reg("links/.wh.b", ""), reg("links/.wh.nothing", ""), reg("only/.wh.here", ""), reg("usr/lib/x.so", "so"),
		xattr(dir("attrs", 0o755, 0), "user.c", "3"), reg("many/.wh.a-rather-long-name-of-a-file-0007", ""),
	}
	top := []tar.Header{
		dir("twice", 0o755, 0), reg("twice/high", "high"), reg("etc/gone", "back"), reg("links/d", "other"), link("links/e", "links/d"),
		reg("opaque/sub/new", "new"), dir("/", 0o751, 9),
	}
	return [][]byte{tarOf(t, bottom...), tarOf(t, middle...), tarOf(t), tarOf(t, dir("no", 0o755, 0)), tarOf(t, top...)}
}

func TestFlatShowsWhatOverlayShows(t *testing.T) {
	s := open(t, Options{})
	chain := ingestAll(t, s, difficult(t)...)
	if n := compareFlat(t, s, chain); n < 700 {
		t.Errorf("only %d names", n)
	}
	// Other orders make other sense, or none, but the same.
	compareFlat(t, s, []digest.Digest{chain[4], chain[1], chain[0]})
	compareFlat(t, s, []digest.Digest{chain[0], chain[4], chain[1], chain[0]})
	compareFlat(t, s, []digest.Digest{chain[2], chain[3]})
	compareFlat(t, s, chain[:1])
}

// TestFlatRandom compares chains of layers that overwrite and delete each other's names.
func TestFlatRandom(t *testing.T) {
	s := open(t, Options{})
	for seed := range 12 {
		r := rand.New(rand.NewPCG(uint64(seed), 1))
		var tars [][]byte
		for l := range 2 + r.IntN(10) {
			var headers []tar.Header
			for range 40 {
				p := make([]string, 1+r.IntN(4))
				for i := range p {
					p[i] = string(rune('a' + r.IntN(4)))
				}
				h := tar.Header{ModTime: time.Unix(int64(r.IntN(1e9)), 0), Mode: int64(0o400 + r.IntN(0o400)), Uid: r.IntN(3)}
				switch last := len(p) - 1; r.IntN(6) {
				case 0:
					h.Typeflag = tar.TypeDir
				case 1:
					p[last] = ".wh." + p[last]
				case 2:
					p = append(p, ".wh..wh..opq")
				case 3:
					h.Typeflag, h.Linkname = tar.TypeSymlink, "/x/y"+fmt.Sprint(l)
				default:
					h.Linkname = strings.Repeat(fmt.Sprint(l), r.IntN(9000))
				}
				h.Name = strings.Join(p, "/")
				headers = append(headers, h)
			}
			tars = append(tars, tarOf(t, headers...))
		}
		compareFlat(t, s, ingestAll(t, s, tars...))
	}
}

func TestFlatManyLayers(t *testing.T) {
	s := open(t, Options{})
	var tars [][]byte
	for i := range 120 {
		tars = append(tars, tarOf(t,
			tar.Header{Name: fmt.Sprintf("layer/%d", i), Linkname: strings.Repeat("x", i*100)},
			tar.Header{Name: "last", Linkname: fmt.Sprint(i)},
			tar.Header{Name: fmt.Sprintf("layer/.wh.%d", i-3)},
		))
	}
	if n := compareFlat(t, s, ingestAll(t, s, tars...)); n != 6 {
		t.Errorf("%d names", n)
	}
}

func TestFlatLife(t *testing.T) {
	base := t.TempDir()
	o := Options{Root: base + "/root", State: base + "/state"}
	s := open(t, o)
	chain := ingestAll(t, s, difficult(t)...)
	var wg sync.WaitGroup
	got := make([][]string, 8)
	for i := range got {
		wg.Go(func() {
			files, err := s.Flat(context.Background(), chain)
			if err != nil {
				t.Error(err)
			}
			got[i] = files
		})
	}
	wg.Wait()
	if len(got[0]) != 4 { // two of the layers have no data
		t.Fatalf("files %v", got[0])
	}
	for _, files := range got[1:] {
		if !slices.Equal(files, got[0]) {
			t.Errorf("files %v and %v", files, got[0])
		}
	}
	merged := got[0][0]
	if dir := filepath.Join(s.root, mergedDir); filepath.Dir(merged) != dir || len(s.mergedFiles()) != 1 {
		t.Errorf("%s among %v", merged, s.mergedFiles())
	}
	if slices.Contains(s.List(), "") || len(s.List()) != 5 {
		t.Errorf("layers %v", s.List())
	}
	before, err := os.Stat(merged)
	if err != nil {
		t.Fatal(err)
	}
	// What a crash left is removed, what is whole stays.
	torn := filepath.Join(s.root, mergedDir, strings.Repeat("ab", 32)+blobSuffix)
	for _, file := range []string{torn, filepath.Join(s.root, mergedDir, mergedPrefix+"1")} {
		if err := os.WriteFile(file, make([]byte, 8192), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if s, err = Open(o); err != nil {
		t.Fatal(err)
	}
	if files := s.mergedFiles(); !slices.Equal(files, []string{merged}) {
		t.Errorf("after a restart: %v", files)
	}
	if files, err := s.Flat(t.Context(), chain); err != nil || !slices.Equal(files, got[0]) {
		t.Errorf("%v, %v", files, err)
	}
	if after, err := os.Stat(merged); err != nil || !os.SameFile(before, after) {
		t.Errorf("made anew: %v", err)
	}
	// A torn one is made again.
	if err := os.Truncate(merged, 4096*3); err != nil {
		t.Fatal(err)
	}
	compareFlat(t, s, chain)
	if err := s.Remove(t.Context(), chain[3]); err != nil {
		t.Fatal(err)
	}
	if files := s.mergedFiles(); len(files) > 0 {
		t.Errorf("left: %v", files)
	}
	if _, err := s.Flat(t.Context(), chain); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	if files, err := s.Flat(t.Context(), chain[:1]); err != nil || len(files) != 1 {
		t.Errorf("%v, %v", files, err)
	}
	if _, err := s.Flat(t.Context(), nil); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
	if files := s.mergedFiles(); len(files) > 0 {
		t.Errorf("left: %v", files)
	}
}
