package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/cricket-cri/cricket/runtime/layer/erofs"
)

// impliedLayers are layers of which the upper ones have names in directories that only
// lower ones describe.
func impliedLayers(t testing.TB) [][]byte {
	t.Helper()
	at := time.Unix(1700000000, 0)
	file := func(name, body string) tar.Header { return tar.Header{Name: name, Linkname: body, ModTime: at} }
	dir := func(name string, mode int64, uid int) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: mode, Uid: uid, Gid: uid, ModTime: at}
	}
	return [][]byte{
		tarOf(t, dir("root", 0o700, 0), dir("tmp", 0o1777, 0), xattr(dir("attrs", 0o755, 0), "user.a", "1"), file("root/low", "low"),
			dir("plain", 0o755, 0), dir("deep", 0o711, 1), dir("deep/er", 0o750, 2), dir("later", 0o700, 3), file("file", "x")),
		tarOf(t, file("root/middle", "middle"), file("deep/er/x", "x"), file("new/x", "x"), dir("later", 0o755, 4)),
		tarOf(t, file("root/high", "high"), file("tmp/high", "high"), file("attrs/high", "high"), file("plain/high", "high"),
			file("deep/high", "high"), file("later/high", "high"), file("new/high", "high")),
	}
}

var anyTime = regexp.MustCompile(` time \S+`)

// A directory that a layer only implies stays as lower layers made it, as for who unpacks
// one layer after the other, which is what GNU tar does here.
func TestImpliedDirectories(t *testing.T) {
	layers := impliedLayers(t)
	want := t.TempDir()
	for _, l := range layers {
		c := exec.Command("tar", "-x", "-p", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-C", want)
		c.Stdin = bytes.NewReader(l)
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("tar: %v\n%s", err, out)
		}
	}
	for _, loop := range []bool{false, true} {
		s := open(t, Options{ForceLoop: loop, Root: t.TempDir(), State: t.TempDir()})
		chain := ingestAll(t, s, layers...)
		dirs, err := s.Mount(t.Context(), chain)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := s.Mount(t.Context(), chain); err != nil || len(again) != 1 || again[0] != dirs[0] {
			t.Errorf("mounted again on %v, not %v: %v", again, dirs, err)
		}
		got := describe(t, mountOverlay(t, dirs))
		if content, err := os.ReadFile(dirs[0] + "/root/high"); err != nil || string(content) != "high" {
			t.Errorf("root/high: %q, %v", content, err)
		}
		for name, line := range describe(t, want) {
			line, own := anyTime.ReplaceAllString(line, ""), anyTime.ReplaceAllString(got[name], "")
			if name != "" && line != own {
				t.Errorf("%s:\ngot  %s\nwant %s", name, own, line)
			}
		}
		if err := s.Remove(t.Context(), chain[1]); err != nil {
			t.Fatal(err)
		}
		for _, m := range mountsBelow(t, s.state) {
			if strings.Contains(m, flatPrefix) {
				t.Errorf("a layer is removed, and its chain still mounted: %s", m)
			}
		}
	}
}

// Layers are merged only where stacking them misleads: merged ones share no page cache.
func TestImpliedDirectoriesStack(t *testing.T) {
	s := open(t, Options{Root: t.TempDir(), State: t.TempDir()})
	layers := impliedLayers(t)
	chain := ingestAll(t, s,
		tarOf(t, tar.Header{Name: "plain", Typeflag: tar.TypeDir}, tar.Header{Name: "dir", Typeflag: tar.TypeDir, Mode: 0o700}),
		tarOf(t, tar.Header{Name: "plain/x"}, tar.Header{Name: "new/x"}, tar.Header{Name: "dir", Typeflag: tar.TypeDir, Mode: 0o711}),
		layers[0], layers[2])
	for want, c := range map[int][]digest.Digest{2: chain[:2], 1: chain} {
		if dirs, err := s.Mount(t.Context(), c); err != nil || len(dirs) != want {
			t.Errorf("%d layers are mounted on %v, want %d directories: %v", len(c), dirs, want, err)
		}
	}
}

// A store that opens takes away the mount of a chain that has lost its metadata.
func TestImpliedDirectoriesReopen(t *testing.T) {
	o := Options{Root: t.TempDir(), State: t.TempDir()}
	s := open(t, o)
	chain := ingestAll(t, s, impliedLayers(t)...)
	dirs, err := s.Mount(t.Context(), chain)
	if err != nil {
		t.Fatal(err)
	}
	s, err = Open(o)
	if err != nil {
		t.Fatal(err)
	}
	if is, err := mounted(dirs[0]); !is || err != nil {
		t.Errorf("whole, and no longer mounted: %v", err)
	}
	if err := os.RemoveAll(o.Root + "/" + mergedDir); err != nil {
		t.Fatal(err)
	}
	if _, err = Open(o); err != nil {
		t.Fatal(err)
	}
	if is, err := mounted(dirs[0]); is || err != nil {
		t.Errorf("mounted without metadata: %v", err)
	}
	if again, err := s.Mount(t.Context(), chain); err != nil || again[0] != dirs[0] {
		t.Errorf("mounted again on %v: %v", again, err)
	}
}

// deepLayer is a tar of few entries and a directory so many times 2047 deep: every link leads on
// from where the one before it ends, and what it leads through is only implied.
func deepLayer(t testing.TB, links int) []byte {
	t.Helper()
	var headers []tar.Header
	name := "a"
	for range links {
		headers = append(headers, tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: strings.Repeat("d/", 2047)})
		name += "/a"
	}
	return tarOf(t, append(headers, tar.Header{Name: name})...)
}

// What a chain costs to look through does not grow with the square of its depth.
func TestImpliedDeep(t *testing.T) {
	s := open(t, Options{Root: t.TempDir(), State: t.TempDir()})
	chain := ingestAll(t, s, tarOf(t, tar.Header{Name: "low"}), deepLayer(t, 10))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	dirs, err := s.Mount(t.Context(), chain)
	runtime.ReadMemStats(&after)
	if err != nil || len(dirs) != 2 {
		t.Errorf("mounted on %v: %v", dirs, err)
	}
	if mib := (after.TotalAlloc - before.TotalAlloc) >> 20; mib > 100 {
		t.Errorf("%d MiB are allocated for a directory 20,000 deep", mib)
	}
}

// wideLayer is a tar of so many times 2000 directories that it does not describe: links lead
// through them.
func wideLayer(t testing.TB, links int) []byte {
	t.Helper()
	var headers []tar.Header
	for i := range links {
		name := fmt.Sprintf("a%d", i)
		headers = append(headers,
			tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: fmt.Sprintf("b%d", i) + strings.Repeat("/d", 1999)},
			tar.Header{Name: name + "/x"})
	}
	return tarOf(t, headers...)
}

// A layer of very many implied directories is merged without a look at all of them.
func TestImpliedMany(t *testing.T) {
	var log bytes.Buffer
	s := open(t, Options{Root: t.TempDir(), State: t.TempDir(), Log: slog.New(slog.NewTextHandler(&log, nil))})
	dirs, err := s.Mount(t.Context(), ingestAll(t, s, tarOf(t, tar.Header{Name: "low"}), wideLayer(t, maxCompared/2000+1)))
	if err != nil || len(dirs) != 1 {
		t.Errorf("mounted on %v, want 1 directory: %v", dirs, err)
	}
	if !strings.Contains(log.String(), "than are compared") {
		t.Errorf("the log has no reason: %s", &log)
	}
}

// Layers with few enough directories each are not looked up in each other without end.
func TestImpliedOverEachOther(t *testing.T) {
	var log bytes.Buffer
	s := open(t, Options{Root: t.TempDir(), State: t.TempDir(), Log: slog.New(slog.NewTextHandler(&log, nil))})
	wide := maxCompared/2000 - 1
	dirs, err := s.Mount(t.Context(), ingestAll(t, s, wideLayer(t, wide-1), wideLayer(t, wide)))
	if err != nil || len(dirs) != 1 {
		t.Errorf("mounted on %v, want 1 directory: %v", dirs, err)
	}
	if !strings.Contains(log.String(), "than are compared") {
		t.Errorf("the log has no reason: %s", &log)
	}
}

// TestMergedTooLarge: layers that are together more than one may be can be used all the same.
func TestMergedTooLarge(t *testing.T) {
	s := open(t, Options{Root: t.TempDir(), State: t.TempDir(), Limits: erofs.Limits{Entries: 100}})
	var low, top []tar.Header
	low = append(low, tar.Header{Name: "d", Typeflag: tar.TypeDir, Mode: 0o700})
	for i := range 60 {
		low = append(low, tar.Header{Name: fmt.Sprintf("low%d", i)})
		top = append(top, tar.Header{Name: fmt.Sprintf("d/top%d", i)})
	}
	dirs, err := s.Mount(t.Context(), ingestAll(t, s, tarOf(t, low...), tarOf(t, top...)))
	if err != nil || len(dirs) != 2 {
		t.Errorf("mounted on %v, want both layers: %v", dirs, err)
	}
}

// A link of a lower layer leads to nothing of the host.
func TestImpliedBelowLink(t *testing.T) {
	host := t.TempDir()
	if err := os.Mkdir(host+"/b", 0o700); err != nil {
		t.Fatal(err)
	}
	s := open(t, Options{Root: t.TempDir(), State: t.TempDir()})
	low := tarOf(t, tar.Header{Name: "a", Typeflag: tar.TypeSymlink, Linkname: host}, tar.Header{Name: "file", Linkname: "x"})
	for _, name := range []string{"a/b/x", "a/x", "file/b/x"} {
		chain := ingestAll(t, s, low, tarOf(t, tar.Header{Name: name}))
		if dirs, err := s.Mount(t.Context(), chain); err != nil || len(dirs) != 2 {
			t.Errorf("%s: mounted on %v, want 2 directories: %v", name, dirs, err)
		}
	}
}

// Who gives up is not kept by a layer of very many directories, and leaves no answer behind.
func TestImpliedGivenUp(t *testing.T) {
	s := open(t, Options{Root: t.TempDir(), State: t.TempDir()})
	stack, err := s.stack(t.Context(), ingestAll(t, s, impliedLayers(t)...))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.misleads(ctx, stack); !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v, want that it is cancelled", err)
	}
	if found, err := s.misleads(t.Context(), stack); !found || err != nil {
		t.Errorf("asked again: %v, %v", found, err)
	}
}
